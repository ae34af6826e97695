"""LeaseBook: all batches since a push belong to the next; a thrown away gradient gives back what it was computed on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardigrad.errors import ProtocolError
from tardigrad.records import Lease
from tardigrad.session.book import Batches, LeaseBook

FIRST, SECOND, THIRD = (Lease(0, start, start + 4) for start in (0, 4, 8))


def book_with(*leases, yielded):
    book = LeaseBook()
    for lease in leases:
        book.took(lease)
    for _ in range(yielded):
        book.yielded()
    return book


def test_batches_come_in_the_order_of_their_leases():
    book = book_with(FIRST, SECOND, yielded=0)
    assert (book.yielded(), book.yielded()) == (FIRST, SECOND)


def test_a_batch_without_a_lease_is_a_mistake():
    with pytest.raises(ProtocolError, match="no lease was taken"):
        LeaseBook().yielded()


def test_all_batches_since_the_last_push_belong_to_the_next():
    book = book_with(FIRST, SECOND, THIRD, yielded=2)
    book.backward()
    assert book.for_push() == Batches((FIRST, SECOND), samples=8, batches=2)
    assert book.for_push() == Batches((), samples=0, batches=0)
    book.yielded()
    assert book.for_push().leases == (THIRD,)


def test_the_usual_order_throws_nothing_away():
    """forward; zero_grad; backward; step."""
    book = book_with(FIRST, SECOND, yielded=0)
    for lease in (FIRST, SECOND):
        book.yielded()
        assert book.thrown_away() == ()
        book.backward()
        assert book.for_push().leases == (lease,)


def test_a_gradient_without_a_step_is_thrown_away_but_not_the_batch_just_fetched():
    book = book_with(FIRST, SECOND, THIRD, yielded=2)
    book.backward()
    book.yielded()
    assert book.thrown_away() == (FIRST, SECOND)
    assert book.thrown_away() == ()
    book.backward()
    assert book.for_push().leases == (THIRD,)


def test_zero_grad_after_a_step_throws_nothing_away():
    """forward; backward; step; zero_grad."""
    book = book_with(FIRST, SECOND, yielded=1)
    book.backward()
    book.for_push()
    assert book.thrown_away() == ()
    book.yielded()
    assert book.thrown_away() == ()
    assert book.held


def test_many_backward_passes_on_one_batch_are_one():
    book = book_with(FIRST, SECOND, yielded=1)
    for _ in range(5):
        book.backward()
    assert book.unstepped
    assert book.thrown_away() == (FIRST,)
    assert not book.unstepped


def test_what_was_never_yielded_is_unused():
    book = book_with(FIRST, SECOND, THIRD, yielded=1)
    assert book.unused() == (SECOND, THIRD)
    assert book.unused() == ()
    assert book.for_push().leases == (FIRST,)


def test_a_stream_is_counted():
    book = LeaseBook()
    book.counted(4)
    book.backward()
    book.counted(3)
    assert book.for_push() == Batches((), samples=7, batches=2)
    book.counted(2)
    book.backward()
    book.counted(5)
    assert book.thrown_away() == ()
    assert book.for_push().samples == 5


@given(st.lists(st.sampled_from(["took", "yielded", "backward", "push", "thrown", "unused"]), max_size=60))
def test_no_lease_is_lost_or_doubled(actions):
    book, taken, seen = LeaseBook(), [], []
    for action in actions:
        if action == "took":
            taken.append(Lease(0, len(taken), len(taken) + 1))
            book.took(taken[-1])
        elif action == "yielded" and book._ahead:
            book.yielded()
        elif action == "backward":
            book.backward()
        elif action == "push":
            seen += book.for_push().leases
        elif action == "thrown":
            seen += book.thrown_away()
        elif action == "unused":
            seen += book.unused()
    seen += [*book.for_push().leases, *book.unused()]
    assert sorted(seen, key=lambda lease: lease.start) == taken
