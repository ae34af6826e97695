"""The law book of transports catches each kind of broken transport."""

import os
import socket
import threading

import pytest

from tardigrad.errors import UnknownName
from tardigrad.testing import TRANSPORT_LAWS, check_transport
from tardigrad.transports.carrying import TRANSPORTS, Shared, Stream, TrustedStream
from tardigrad.transports.slots import Slot, ends


class Between(Shared):
    """Its messages pass through a thread in the middle, which is where they can go wrong."""

    def connect(self):
        server, worker = super().connect()
        for place in (server, worker):
            place.end.close()
        (server.end, inner), (worker.end, outer) = ends(), ends()
        for one, other in ((inner, outer), (outer, inner)):
            threading.Thread(target=self.carry, args=(one, other), daemon=True).start()
        return server, worker

    def carry(self, one, other):
        count = 0
        while message := self.heard(one):
            count += 1
            for each in self.said(message, count):
                other.send(each)
        self.ended(other)

    def heard(self, one):
        try:
            return one.recv(65536)
        except OSError:
            return b""

    def said(self, message, count):
        return [message]

    def ended(self, other):
        other.shutdown(socket.SHUT_RDWR)


class Drops(Between):
    def said(self, message, count):
        return [] if count == 7 else [message]


class Doubles(Between):
    def said(self, message, count):
        return [message] * (2 if count == 20 else 1)


class NeverEnds(Between):
    def ended(self, other):
        pass


class ForgetsTheBuffers(TrustedStream):
    def _bridge(self, end, place, side):
        bridge = super()._bridge(end, place, side)
        shipped = bridge._shipped
        bridge._shipped = lambda ships: [
            type(piece)(piece.place, piece.memory[: 4 * self.layout.elements]) for piece in shipped(ships)
        ]
        return bridge


class SaysItFirst(TrustedStream):
    """Ships a slot after the message that hands it over."""

    def _bridge(self, end, place, side):
        bridge = super()._bridge(end, place, side)
        if side == "worker":
            bridge._place = lambda channel: channel.place("down", memoryview(bytearray(self.layout.size)))
        return bridge


class SaysItFirstUpwards(TrustedStream):
    """The same of the gradient."""

    def _bridge(self, end, place, side):
        bridge = super()._bridge(end, place, side)
        if side == "server":
            bridge._place = lambda channel: channel.place("up", memoryview(bytearray(self.layout.size)))
        return bridge


class SharesOneSlot(Shared):
    """All workers write into the up slot of the first."""

    first = None

    def connect(self):
        server, worker = super().connect()
        self.first = self.first or Slot(self.layout, os.dup(server.up.descriptor))
        for place in (server, worker):
            place.up.close()
            place.up = Slot(self.layout, os.dup(self.first.descriptor))
        return server, worker

    def close(self):
        super().close()
        self.first.close()


class StartsAgain(TrustedStream):
    """Forgets, over another line, what has come in already."""

    def _attach(self, span, before=lambda: None):
        super()._attach(span, before)
        if span.worker.received:
            span.server.cut()


class Forgets:
    """Takes what it has sent for what has arrived."""

    def _bridge(self, end, place, side):
        bridge = super()._bridge(end, place, side)
        attach = bridge.attach

        def forgetting(channel, *, received=0):
            bridge.detach()
            bridge._letters.confirm(bridge._letters.written)
            attach(channel, received=bridge._letters.written)

        bridge.attach = forgetting
        return bridge


class NeverSendsAgain(Forgets, TrustedStream):
    pass


class NeverSendsAgainUnderTls(Forgets, Stream):
    pass


class LeavesAThread(Shared):
    def close(self):
        super().close()
        threading.Thread(target=FOREVER.wait, name="left", daemon=True).start()


class LeavesADescriptor(Shared):
    def close(self):
        super().close()
        os.dup(0)


FOREVER = threading.Event()
BROKEN = [
    (Drops, "messages arrive in order and once", "was sent, and None came"),
    (Doubles, "messages arrive in order and once", "was sent, and"),
    (ForgetsTheBuffers, "slots arrive as they were handed over", "with buffers: the down slot holds something else"),
    (SaysItFirst, "a message comes after its slot", "order 1 came before its weights"),
    (SaysItFirstUpwards, "a message comes after its slot", "push 1 came before its gradient"),
    (SharesOneSlot, "workers are apart", "the up slot holds something else"),
    (NeverEnds, "an end is seen after the last message", "end was closed, and b'nothing' is heard"),
    (NeverEnds, "a killed worker is seen", "end was closed, and b'nothing' is heard"),
    (StartsAgain, "a lost line changes nothing", "was sent, and"),
    (NeverSendsAgain, "a lost line changes nothing", "was sent, and"),
    (NeverSendsAgainUnderTls, "a lost line changes nothing", "was sent, and"),
    (LeavesAThread, "nothing is left behind", "thread 'left'"),
    (LeavesADescriptor, "nothing is left behind", "1 descriptors"),
]


@pytest.mark.parametrize(("broken", "law", "sentence"), BROKEN)
def test_a_broken_transport_is_caught(broken, law, sentence):
    FOREVER.clear()
    TRANSPORTS.register("broken", broken)
    with pytest.raises(AssertionError, match=f"the transport 'broken' breaks the law {law!r}.*{sentence}"):
        check_transport("broken", laws=[law], patience=0.5)
    FOREVER.set()
    del TRANSPORTS._entries["broken"]


def test_every_law_that_can_be_broken_is_broken_here():
    assert {law for _, law, _ in BROKEN} == set(TRANSPORT_LAWS)


def test_a_law_that_is_not_one_is_refused():
    with pytest.raises(UnknownName, match="unknown law 'it is fast'"):
        check_transport("slots", laws=["it is fast"])
