"""Lines between two ends in one process: sockets without a network, and some that are cut where a test says so."""

import socket
from contextlib import suppress

from tardigrad.transports.connections import Plain
from tardigrad.transports.stream import Channel


def sockets():
    """Two connected stream sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def channels(*, patience=20.0):
    """Two ends of one line."""
    return tuple(
        Channel(Plain(end, name), patience=patience) for end, name in zip(sockets(), ("one", "two"), strict=True)
    )


class Cut(Plain):
    """A connection that is cut when so many bytes have gone out here."""

    def __init__(self, connected, peer, *, after):
        super().__init__(connected, peer)
        self._left = after

    def send(self, views):
        body = b"".join(views)
        super().send([memoryview(body[: self._left])])
        self._left -= len(body)
        if self._left <= 0:
            self.shut()
            raise ConnectionResetError("cut")


def cut_channels(*, after, by):
    """Two ends of a line that is cut when end number ``by`` has sent so many bytes."""
    made = [Plain(end, "whole") for end in sockets()]
    made[by] = Cut(made[by]._socket, "cut", after=after)
    return tuple(Channel(each) for each in made)


class Scripted:
    """A connection of which a test says what comes, and when nothing does: bytes, or -1 for a wait in vain."""

    peer = "nowhere"

    def __init__(self, *comes):
        self._comes = list(comes)
        self.sent, self.beats = [], []

    def receive(self, view):
        if not self._comes:
            return 0
        if self._comes[0] == -1:
            self._comes.pop(0)
            return -1
        count = min(len(view), len(self._comes[0]))
        view[:count] = self._comes[0][:count]
        self._comes[0] = self._comes[0][count:]
        if not self._comes[0]:
            self._comes.pop(0)
        return count

    def send(self, views):
        self.sent.append(b"".join(views))

    def beat(self, frame):
        self.beats.append(frame)

    def wait_at_most(self, *, send, receive):
        self.waits = (send, receive)

    def deafen(self):
        self._comes = []

    shut = close = deafen


def counted(channel):
    """Bytes that this end of a line sends from now on, summed."""
    sent, send = [], channel._connection.send
    channel._connection.send = lambda views: (sent.append(sum(map(len, views))), send(views))
    return lambda: sum(sent)


def bytes_of(word, content=None, pieces=()):
    """What a message is on the wire."""
    connection = Scripted()
    Channel(connection).send(word, content, pieces)
    return connection.sent[0]


def closed(*things):
    """Close them all."""
    for thing in things:
        with suppress(OSError):
            thing.close()
