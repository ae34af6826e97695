"""Meeting: who holds the secret gets in, nobody else does, and nobody keeps the others waiting."""

import errno
import socket
import ssl
import threading
from contextlib import closing, suppress
from queue import Queue

import pytest
from lines import bytes_of, closed

from tardigrad.errors import InvalidArgument
from tardigrad.testing.leftovers import held_now, left_since
from tardigrad.transports import meeting
from tardigrad.transports.credentials import Credentials, new_secret
from tardigrad.transports.meeting import CredentialsRefused, Listener, dial, parse_address
from tardigrad.transports.stream import Message, Piece

SECRET = new_secret()
KINDS = {"TLS": False, "trusted": True}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def credentials(request):
    return Credentials(SECRET, request.param)


@pytest.fixture
def listen():
    opened = []

    def listening(credentials, **more):
        met = Queue()
        opened.append(Listener("127.0.0.1:0", credentials, met=met.put, **more))
        return opened[-1], met

    yield listening
    closed(*opened)


def raw(listener):
    """A stranger's socket."""
    return socket.create_connection(parse_address(listener.address), timeout=10)


ADDRESSES = {
    "host:7070": ("host", 7070),
    ":7070": ("", 7070),
    "[::1]:7070": ("::1", 7070),
    " 10.0.0.1:0 ": ("10.0.0.1", 0),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_read(address):
    assert parse_address(address) == ADDRESSES[address]


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:x", "host:65536", "::1:70", "host:-1", "http://host:80"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InvalidArgument, match=r"is no address\. Type HOST:PORT,"):
        parse_address(address)


def test_both_ends_talk_and_nothing_is_left(credentials):
    before = held_now()
    met = Queue()
    listener = Listener("127.0.0.1:0", credentials, met=met.put)
    with (
        closing(listener),
        closing(dial(listener.address, credentials, timeout=10)) as here,
        closing(met.get()) as there,
    ):
        assert here.peer == listener.address
        for one, other in ((here, there), (there, here)):
            place = bytearray(3_000_000)
            other.place("slot", memoryview(place))
            sending = threading.Thread(target=one.send, args=("w", {"a": 1}, [Piece("slot", b"x" * 3_000_000)]))
            sending.start()
            assert other.receive() == Message("w", {"a": 1})
            assert place == b"x" * 3_000_000
            sending.join()
    del here, there, one, other, sending, met, listener
    assert left_since(before) == []


@pytest.mark.parametrize("family", ["127.0.0.1", "[::1]", ""])
def test_every_kind_of_address_can_be_listened_at(family):
    try:
        listener = Listener(f"{family}:0", Credentials(SECRET, trusted=True), met=lambda channel: channel.close())
    except OSError:
        pytest.skip(f"this machine has no {family}")
    port = parse_address(listener.address)[1]
    with closing(listener), closing(dial(f"{family}:{port}", Credentials(SECRET, trusted=True), timeout=10)) as here:
        assert here.peer.endswith(f":{port}")


def test_every_address_of_ipv6_is_every_address(listen):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    trusted = Credentials(SECRET, trusted=True)
    with closing(Listener("[::]:0", trusted, met=lambda channel: channel.close())) as listener:
        port = parse_address(listener.address)[1]
        for host in ("127.0.0.1", "[::1]"):
            dial(f"{host}:{port}", trusted, timeout=10).close()


def test_an_address_in_use_is_an_error(listen, credentials):
    listener, _ = listen(credentials)
    with pytest.raises(OSError, match="in use"):
        Listener(listener.address, credentials, met=print)


def test_nobody_there_is_an_error(listen, credentials):
    listener, _ = listen(credentials)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        dial(listener.address, credentials, timeout=10)


# -- who is not let in -------------------------------------------------------------------------------------------


def test_another_secret_is_refused_and_nobody_is_met(listen, credentials):
    listener, met = listen(credentials)
    with pytest.raises(CredentialsRefused, match="does not hold the same secret"):
        dial(listener.address, Credentials(new_secret(), credentials.trusted), timeout=10)
    assert met.empty()


def test_tls_on_one_side_only_is_explained(listen):
    for trusted, sentence in ((True, "trusts its network and uses no TLS"), (False, "it uses TLS")):
        listener, met = listen(Credentials(SECRET, trusted))
        with pytest.raises(CredentialsRefused, match=sentence):
            dial(listener.address, Credentials(SECRET, not trusted), timeout=10)
        assert met.empty()


STRANGERS = [
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00" + bytes(600),
    meeting._HELLO + bytes(64),
    b"\0" * 100,
]


@pytest.mark.parametrize("words", STRANGERS, ids=range(len(STRANGERS)))
def test_a_stranger_gets_nothing_and_nobody_is_met(listen, credentials, words):
    listener, met = listen(credentials)
    with raw(listener) as stranger:
        stranger.sendall(words)
        with suppress(OSError):
            stranger.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while stranger.recv(1000):
                pass
    assert met.empty()


def test_strangers_who_say_nothing_keep_nobody_waiting_and_are_left(listen, credentials):
    listener, met = listen(credentials, handshake=2.0)
    with raw(listener) as silent, raw(listener) as slow:
        slow.sendall(meeting._HELLO[:3])
        here = dial(listener.address, credentials, timeout=10)
        closed(here, met.get())
        for stranger in (silent, slow):
            with suppress(ConnectionResetError):
                while stranger.recv(1000):
                    pass


def test_no_more_strangers_are_heard_at_once_than_there_is_room_for(listen, credentials, monkeypatch):
    monkeypatch.setattr(meeting, "_STRANGERS", 2)
    listener, _ = listen(credentials)
    with raw(listener), raw(listener), raw(listener) as third, suppress(ConnectionResetError):
        assert third.recv(1) == b""


class Exhausted:
    """A socket that cannot let anybody in at first."""

    def __init__(self, listening, times):
        self._listening, self.left = listening, times

    def accept(self):
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listening.accept()

    def __getattr__(self, name):
        return getattr(self._listening, name)


def test_where_there_is_no_descriptor_left_it_is_tried_again_and_not_at_once(listen, credentials, monkeypatch):
    pauses, listening = [], meeting._listening
    monkeypatch.setattr(meeting, "_listening", lambda *address: Exhausted(listening(*address), times=3))
    monkeypatch.setattr(meeting, "sleep", pauses.append)
    listener, met = listen(credentials)
    closed(dial(listener.address, credentials, timeout=10), met.get())
    assert pauses == [0.1] * 3


def test_where_no_thread_can_be_had_a_guest_is_left_and_the_next_is_let_in(listen, credentials, monkeypatch):
    listener, met = listen(credentials)
    start, refused = threading.Thread.start, []

    def none_for_the_first(thread):
        if thread.name.startswith("guest") and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", none_for_the_first)
    with pytest.raises(OSError):  # noqa: PT011 (which one depends on how far the dialler has come)
        dial(listener.address, credentials, timeout=10)
    assert refused
    closed(dial(listener.address, credentials, timeout=10), met.get())
    listener.close()


def test_closing_leaves_a_stranger_and_closes_a_channel_that_is_being_met(credentials):
    before, begun, ended = held_now(), Queue(), Queue()

    def met(channel):
        begun.put(channel.peer)
        with suppress(EOFError, OSError):
            channel.receive()
            return
        ended.put("by an error")

    listener = Listener("127.0.0.1:0", credentials, met=met)
    silent, here = raw(listener), dial(listener.address, credentials, timeout=10)
    begun.get()  # who has been let in is told so before it is handed on
    listener.close()
    assert ended.get() == "by an error"
    closed(silent, here)
    assert left_since(before) == []


def test_who_answers_nothing_is_given_up_in_time(credentials):
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(TimeoutError):
        dial(f"127.0.0.1:{deaf.getsockname()[1]}", credentials, timeout=0.1)


def test_who_goes_away_before_we_met_is_an_error_and_no_wrong_secret(credentials):
    with socket.create_server(("127.0.0.1", 0)) as gone:

        def leave():
            connected, _ = gone.accept()
            connected.recv(10_000)
            connected.close()

        leaving = threading.Thread(target=leave)
        leaving.start()
        with pytest.raises(ConnectionResetError, match="before the two had met"):
            dial(f"127.0.0.1:{gone.getsockname()[1]}", credentials, timeout=10)
        leaving.join()


# -- who sits in between ------------------------------------------------------------------------------------------


class Between:
    """Somebody on the network who hears everything, and may change a byte that the one who dialled sends."""

    def __init__(self, listener):
        self.heard, self.flip = bytearray(), -1
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._there = raw(listener)
        self._threads = [threading.Thread(target=self._begin, daemon=True)]
        self._threads[0].start()

    def _begin(self):
        self._here, _ = self._server.accept()
        back = threading.Thread(target=self._pass_on, args=(self._there, self._here), daemon=True)
        self._threads.append(back)
        back.start()
        self._pass_on(self._here, self._there, listens=True)

    def _pass_on(self, one, other, *, listens=False):
        with suppress(OSError):
            while arrived := one.recv(65536):
                if listens and self.flip == len(self.heard):
                    arrived = arrived[:-1] + bytes([arrived[-1] ^ 1])
                self.heard += arrived if listens else b""
                other.sendall(arrived)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)

    def close(self):
        for each in (self._here, self._there):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        closed(self._here, self._there, self._server)


@pytest.fixture
def between(listen, credentials):
    listener, met = listen(credentials)
    middle = Between(listener)
    here = dial(middle.address, credentials, timeout=10)
    there = met.get()
    yield middle, here, there, credentials
    closed(middle, here, there)


def test_under_tls_nobody_hears_what_is_said(between):
    middle, here, there, credentials = between
    here.send("very plain words", {}, [Piece("", b"gradient" * 1000)])
    there.receive()
    plain = b"very plain words" in middle.heard and b"gradientgradient" in middle.heard
    assert plain == credentials.trusted
    assert SECRET.encode() not in middle.heard


def test_under_tls_nobody_changes_what_is_said(between):
    middle, here, there, credentials = between
    middle.flip = len(middle.heard)
    here.send("w", {}, [Piece("", b"12345678")])
    if credentials.trusted:  # said on the page: who sits on a trusted network may change everything
        assert there.receive().blobs == (b"12345679",)
        return
    with pytest.raises(ssl.SSLError):
        there.receive()


def test_a_conversation_that_was_overheard_opens_nothing(listen, between):
    middle, here, there, credentials = between
    here.send("w")
    there.receive()
    listener, met = listen(credentials)
    with raw(listener) as replaying, suppress(OSError):
        replaying.sendall(bytes(middle.heard))
        replaying.shutdown(socket.SHUT_WR)
        while replaying.recv(1000):
            pass
    assert met.empty()


def test_an_answer_cannot_be_had_from_the_other_end_itself(listen):
    """Who dials and sends the listener's own challenge back learns nothing that opens a door: the roles differ."""
    credentials = Credentials(SECRET, trusted=True)
    listener, met = listen(credentials)
    with raw(listener) as stranger:
        stranger.sendall(meeting._HELLO + bytes(32))
        answer = stranger.recv(64, socket.MSG_WAITALL)
        with raw(listener) as oracle:
            oracle.sendall(meeting._HELLO + answer[:32])
            stranger.sendall(oracle.recv(64, socket.MSG_WAITALL)[32:])
        assert stranger.recv(10) == b""
    assert met.empty()


def test_bytes_before_the_two_have_met_are_no_message(listen, credentials):
    listener, met = listen(credentials)
    with raw(listener) as stranger, suppress(ConnectionResetError):
        stranger.sendall(bytes_of("word"))
        stranger.shutdown(socket.SHUT_WR)
        assert b"met" not in stranger.recv(1000)
    assert met.empty()
