"""Ledger: how epochs were begun is known as long as somebody may compute one of their samples."""

import json

from tardigrad.leases import Leases
from tardigrad.ledger import Ledger


def finished(ledger, epoch):
    while (lease := ledger.take(0, epoch)) is not None:
        ledger.committed(ledger.pushed(0, [lease]))


def test_how_an_epoch_was_begun_is_kept_until_it_is_finished():
    ledger = Ledger(Leases(6, 2))
    ledger.begin(0, {"states": "of 0"})
    assert ledger.begun(0) == {"states": "of 0"}
    assert ledger.begun(1) is None
    late = ledger.take(0, 0)
    finished(ledger, 1)
    ledger.begin(1, {"states": "of 1"})
    ledger.begin(2, {"states": "of 2"})
    assert [ledger.begun(epoch) is not None for epoch in range(3)] == [True, True, True]  # one sample of 0 is left
    ledger.committed(ledger.pushed(0, [late]))
    ledger.begin(3, {"states": "of 3"})
    assert [ledger.begun(epoch) is not None for epoch in range(4)] == [False, False, True, True]


def test_a_checkpoint_holds_how_the_unfinished_epochs_were_begun():
    ledger, other = Ledger(Leases(6, 2)), Ledger(Leases(6, 2))
    ledger.begin(0, {"states": "of 0"})
    finished(ledger, 0)
    ledger.take(0, 1)
    ledger._begun[1] = {"states": "of 1"}
    state = json.loads(json.dumps(ledger.state_dict()))
    assert state["begun"] == {"1": {"states": "of 1"}}
    other.load_state_dict(state)
    assert (other.begun(0), other.begun(1)) == (None, {"states": "of 1"})
