"""What stands for agents, their connections and whoever recruits them, where an engine is tested without any."""

from dataclasses import replace

from tardigrad.engines.base import Observer
from tardigrad.engines.joined.facts import Facts
from tardigrad.engines.joined.greeting import Hello
from tardigrad.engines.joined.lodging import Placed
from tardigrad.engines.joined.reception import Arrival

FACTS = Facts({"torch": "2"}, "c0de")


class Channel:
    """Of an agent that says nothing."""

    def __init__(self, fails=None):
        self.said, self.closed, self._fails = [], False, fails

    def send(self, word, content=None, pieces=()):
        if self._fails is not None:
            raise self._fails
        self.said.append((word, content))

    def close(self):
        self.closed = True


class Recruiter:
    def __init__(self, fails=None):
        self.words, self.wanted, self.closed, self._fails = [], [], False, fails

    def begin(self, address, secret, workers):
        self.address = address
        if self._fails is not None:
            raise self._fails

    def tick(self, wanted):
        self.wanted.append(wanted)

    def close(self):
        self.closed = True


class Told(Observer):
    def __init__(self):
        self.notes = []

    def noted(self, time, words):
        self.notes.append(words)


def arrival(place="p", channel=None, **hello):
    return Arrival(channel or Channel(), replace(Hello.own(place, FACTS), **hello))


def placed(channel=None, worker=0):
    return Placed(arrival(channel=channel), worker, "layout", lambda *said: None)


class Bridge:
    def __init__(self, *, came=0, fails=None):
        self.came, self.closed, self._fails = came, False, fails

    def detach(self):
        return self.came

    def attach(self, channel, *, received):
        if self._fails is not None:
            raise self._fails

    def tell(self, word, content): ...

    def close(self):
        self.closed = True
