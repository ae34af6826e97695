"""EpochClock: which epoch a loop belongs to, no barrier between them, and waiting at the end for what others leave."""

import pytest
from leasing_desk import Desk, Squares, Worker
from torch.utils.data import DataLoader

from tardigrad.errors import InvalidArgument, SessionError


def test_without_epochs_every_loop_is_one():
    desk = Desk(6, 2)
    worker = Worker(desk, DataLoader(Squares(6), 2), first=0)
    for epoch in range(3):
        assert not worker.clock.inside
        worker.train([])
        assert (worker.clock.now, desk.leases.finished_epochs) == (epoch, epoch + 1)
    assert desk.waits == []
    assert desk.told == []


def test_epochs_begin_where_the_run_is():
    desk = Desk(6, 2)
    for _ in range(6):
        lease = desk.ledger.take(1, 1)
        desk.ledger.committed(desk.ledger.pushed(1, [lease]))
    worker, found = Worker(desk, DataLoader(Squares(6), 2), first=2), []
    for epoch in worker.clock.epochs(4):
        found.append(epoch)
        worker.train([])
    assert found == [2, 3]
    assert desk.leases.over


def test_in_the_last_epoch_a_worker_waits_for_what_another_leaves_undone():
    desk = Desk(8, 2, workers=2)
    first = Worker(desk, DataLoader(Squares(8), 2))
    taken = [desk.ledger.take(1, 0), desk.ledger.take(1, 0)]
    desk.meanwhile = lambda: desk.die(1)
    seen = []
    for _ in first.clock.epochs(1):
        first.train(seen)
    assert [lease.start for lease in taken] == [0, 2]
    assert seen == [[4, 5], [6, 7], [0, 1], [2, 3]]
    assert desk.leases.over
    assert desk.waits[0] == 0


def test_no_worker_waits_before_the_last_epoch():
    desk = Desk(8, 2, workers=2)
    worker = Worker(desk, DataLoader(Squares(8), 2))
    desk.ledger.take(1, 0)
    found = []
    for epoch in worker.clock.epochs(2):
        worker.train([])
        found.append((epoch, len(desk.waits)))
        if epoch == 0:
            desk.die(1)
    assert found[0] == (0, 0)
    assert desk.leases.over


def test_what_was_begun_is_pushed_before_a_worker_waits():
    desk = Desk(8, 2)
    worker = Worker(desk, DataLoader(Squares(8), 2))
    worker.drain = lambda: worker.book.held and worker.step()
    worker.clock.serve(worker.book, worker.drain)
    for _ in worker.clock.epochs(1):
        for _ in worker.loader:
            pass
    assert desk.leases.over
    assert len(desk.waits) > 0


def test_a_worker_that_has_not_stepped_ends_its_loop_at_once_and_waits_after_it():
    desk = Desk(8, 2, workers=2)
    worker = Worker(desk, DataLoader(Squares(8), 2))
    desk.ledger.take(1, 0)
    desk.meanwhile = lambda: desk.die(1)
    turns = []
    for epoch in worker.clock.epochs(1):
        seen = []
        for indices, _ in worker.loader:
            seen.append(indices.tolist())
        assert desk.waits == [0] * bool(turns)
        worker.step()
        turns.append((epoch, seen))
    assert turns == [(0, [[2, 3], [4, 5], [6, 7]]), (0, [[0, 1]])]
    assert desk.leases.over


def test_a_tail_that_the_script_never_steps_ends_the_run_as_in_plain_pytorch():
    desk = Desk(10, 2)
    worker = Worker(desk, DataLoader(Squares(10), 2))
    turns = 0
    for _ in worker.clock.epochs(1):
        turns += 1
        for number, _ in enumerate(worker.loader, 1):
            worker.book.backward()
            if number % 2 == 0:
                worker.step()
    assert turns == 1
    assert desk.applied == [(0, place) for place in range(8)]
    assert worker.book.held  # the last two samples go back when the script ends


def test_a_script_that_leaves_its_last_loop_early_is_not_asked_again():
    desk = Desk(10, 2)
    worker = Worker(desk, DataLoader(Squares(10), 2))
    turns = 0
    for _ in worker.clock.epochs(1):
        turns += 1
        for _ in worker.loader:
            worker.step()
            break
    assert (turns, desk.waits) == (1, [])


def test_a_script_that_does_not_loop_is_not_asked_for_ever():
    desk = Desk(8, 2, workers=2)
    worker = Worker(desk, DataLoader(Squares(8), 2))
    desk.ledger.take(1, 0)
    desk.meanwhile = lambda: desk.die(1)
    turns = 0
    for _ in worker.clock.epochs(1):
        turns += 1
        for _ in worker.loader if turns == 1 else ():
            pass
        worker.step()
    assert turns == 2


def test_a_script_that_does_not_loop_in_the_last_epoch_is_not_asked_again():
    worker, turns = Worker(Desk(4, 2), DataLoader(Squares(4), 2)), []
    for epoch in worker.clock.epochs(2):
        turns.append(epoch)
        if epoch == 0:
            worker.train([])
    assert turns == [0, 1]


def test_the_number_of_epochs_is_said_once():
    desk = Desk(4, 2)
    worker = Worker(desk, DataLoader(Squares(4), 2))
    worker.clock.tell(2)
    worker.clock.epochs(2)
    assert desk.told == [2]
    with pytest.raises(SessionError, match="said once"):
        worker.clock.epochs(3)
    with pytest.raises(InvalidArgument):
        worker.clock.epochs(-1)


def test_no_epochs_at_all():
    worker = Worker(Desk(4, 2), DataLoader(Squares(4), 2))
    assert list(worker.clock.epochs(0)) == []
