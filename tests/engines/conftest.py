"""Fixtures of the tests of agents: see `by_hand`."""

import pytest
from by_hand import Guest, Server

from tardigrad.engines.joined.resolving import Means
from tardigrad.transports.credentials import Credentials, new_secret


@pytest.fixture
def credentials():
    return Credentials(new_secret(), trusted=True)


@pytest.fixture
def server(credentials):
    server = Server(credentials)
    yield server
    server.close()


@pytest.fixture
def guests(server, credentials):
    """Makes agents, and sees them off."""
    made = []

    def make(means=None, **settings):
        made.append(Guest(server, credentials, means or Means(), **settings))
        return made[-1]

    yield make
    for guest in made:
        guest.agent.wishes.leave()
        guest.ended()
