"""Every transport keeps the laws of a transport."""

import pytest

from tardigrad.testing import TRANSPORT_LAWS, check_transport
from tardigrad.transports.carrying import TRANSPORTS


@pytest.mark.parametrize("law", TRANSPORT_LAWS)
@pytest.mark.parametrize("name", sorted(TRANSPORTS.names()))
def test_every_transport_keeps_the_laws(name, law):
    check_transport(name, laws=[law])


def test_there_is_a_law_for_each_promise():
    assert len(TRANSPORT_LAWS) == 8
    assert sorted(TRANSPORTS.names()) == ["slots", "stream", "stream-trusted"]
