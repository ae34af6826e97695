"""Meeting: how two ends find each other over TCP, and prove to each other that they hold the same secret.

Whoever dials speaks first. With TLS the handshake proves both; on a trusted network each end sends 32 random bytes and
answers the other's, the listener first. In both cases the last word is the listener's: a message ``met``. Until then
nothing that came in is looked at but bytes of a fixed number, and a stranger who says nothing is left after a while.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep

from tardigrad.errors import InvalidArgument, ProtocolError, TardigradError
from tardigrad.transports.connections import Connection, Plain, Sealed
from tardigrad.transports.credentials import Credentials
from tardigrad.transports.stream import Channel

_HELLO = b"tardigrad 1 trusted network\n"  # what is said first where nothing is encrypted
_TRUSTING = b"tardigrad 1: no TLS here, the network is trusted\n"
_SEALING = b"tardigrad 1: TLS\n"
_MET = b"met\n"
_TLS_HANDSHAKE = 0x16  # the first byte of whoever begins with TLS
_NONCE = _PROOF = 32  # bytes
_HANDSHAKE = 10.0  # seconds that a stranger has to prove the secret
_STRANGERS = 64  # who may try so at the same time
_BACKLOG = 128
_BREATH = 0.1  # seconds until it is tried again where nobody can be let in
_RECORD = 1 << 14
_LAST_BYTES = 16  # how often bytes of somebody who is sent away are looked for


class CredentialsRefused(TardigradError):
    """The two ends do not hold the same secret, or only one of them trusts the network; the message says which."""


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``"host:7070"``, ``":7070"`` (every address of this machine: host ``""``) or ``"[::1]:7070"``.

    A listener at ``"[::]:7070"`` is at every address too, those of IPv4 among them.

    Raises:
        InvalidArgument: it is none of these.
    """
    host, colon, port = address.strip().rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() else -1
    if not colon or not 0 <= number < 65536 or (":" in host and not bracketed) or set("[]/ ") & set(bare):
        raise InvalidArgument(f"{address!r} is no address. Type HOST:PORT, such as 10.0.0.1:7070, or :7070.")
    return bare, number


class Listener:
    """Waits for others to dial, and hands on those that hold the secret.

    Args:
        address: where; port 0: any free one. See `parse_address`.
        credentials: of this end.
        met: called with each channel, in a thread of its own; it owns the channel, and may take its time.
        patience: of the channels; see `Channel`.
        handshake: seconds that a stranger has to prove the secret, > 0.

    Attributes:
        address: the actual one, ``"host:port"``.

    Raises:
        OSError: the address cannot be used.
        MissingDependencyError: TLS needs the package ``cryptography``.
    """

    def __init__(
        self,
        address: str,
        credentials: Credentials,
        *,
        met: Callable[[Channel], None],
        patience: float = 20.0,
        handshake: float = _HANDSHAKE,
    ) -> None:
        self._credentials, self._met, self._patience, self._handshake = credentials, met, patience, handshake
        self._context = None if credentials.trusted else credentials.tls(server=True)
        self._socket = _listening(*parse_address(address))
        self.address = _written(self._socket.getsockname())
        self._lock = threading.Lock()
        self._guests: dict[threading.Thread, Callable[[], None]] = {}  # who is being let in, and how that is ended
        self._closing = False
        self._accepting = threading.Thread(target=self._accept, name="listener", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Let nobody in any more; a channel whose `met` has not returned yet is closed. Leaves no thread behind."""
        self._closing = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._socket.close()
        with self._lock:
            guests = dict(self._guests)
        for guest, end in guests.items():
            end()
            if guest is not threading.current_thread():
                guest.join()

    def _accept(self) -> None:
        while not self._closing:
            try:
                connected, peer = self._socket.accept()
            except OSError:
                if self._closing:
                    return
                sleep(_BREATH)  # it was gone before it was let in, or there is no descriptor left now
                continue
            self._receive(connected, _written(peer))

    def _receive(self, connected: socket.socket, peer: str) -> None:
        guest = threading.Thread(target=self._let_in, args=(connected, peer), name=f"guest-{peer}", daemon=True)
        with self._lock:
            if len(self._guests) >= _STRANGERS:
                connected.close()
                return
            self._guests[guest] = lambda: _shut(connected)
        try:
            guest.start()
        except RuntimeError:  # there is no thread to be had now
            with self._lock:
                del self._guests[guest]
            connected.close()

    def _let_in(self, connected: socket.socket, peer: str) -> None:
        """Have a stranger prove itself, then hand it on. Whoever cannot is left."""
        try:
            connection = self._proven(connected, peer)
            connection.send([memoryview(_MET)])
            channel = Channel(connection, patience=self._patience)
        except (OSError, EOFError, ProtocolError):
            connected.close()
        else:
            self._hand_on(channel)
        finally:
            with self._lock:
                self._guests.pop(threading.current_thread(), None)

    def _hand_on(self, channel: Channel) -> None:
        with self._lock:
            self._guests[threading.current_thread()] = channel.close
        if self._closing:
            channel.close()
        else:
            self._met(channel)

    def _proven(self, connected: socket.socket, peer: str) -> Connection:
        _prepare(connected)
        until, plain = monotonic() + self._handshake, Plain(connected, peer)
        if self._context is not None:
            return _sealed(connected, plain, self._context, until, server=True)
        try:
            _hear(connected, len(_HELLO), until, expected=_HELLO)
        except ProtocolError:
            _part_with(connected, _TRUSTING, until)
            raise
        theirs, mine = _hear(connected, _NONCE, until), secrets.token_bytes(_NONCE)
        _say(connected, mine + self._credentials.proof("listener", theirs + mine), until)
        _hear(connected, _PROOF, until, expected=self._credentials.proof("dialler", theirs + mine))
        return _waiting(plain)


def dial(address: str, credentials: Credentials, *, timeout: float, patience: float = 20.0) -> Channel:
    """Reach a listener, and prove the secret; both within ``timeout`` seconds, > 0.

    Raises:
        OSError: nobody is there, or not in time, or it went away.
        CredentialsRefused: it holds another secret, or one of the two uses TLS and the other does not.
        MissingDependencyError: TLS needs the package ``cryptography``.
    """
    until = monotonic() + timeout
    context = None if credentials.trusted else credentials.tls(server=False)
    host, port = parse_address(address)
    connected = socket.create_connection((host or "localhost", port), timeout=timeout)
    try:
        _prepare(connected)
        plain = Plain(connected, _written(connected.getpeername()))
        if context is None:
            connection: Connection = _proven_to(connected, plain, credentials, until)
        else:
            connection = _sealed(connected, plain, context, until, server=False)
        _await_met(connection, until)
        return Channel(connection, patience=patience)
    except BaseException as error:
        connected.close()
        raise _explained(error, address) from None


def _proven_to(connected: socket.socket, plain: Plain, credentials: Credentials, until: float) -> Plain:
    """Prove the secret to a listener that has proven it first."""
    mine = secrets.token_bytes(_NONCE)
    _say(connected, _HELLO + mine, until)
    theirs = _hear(connected, len(_SEALING), until)
    if theirs == _SEALING:
        raise CredentialsRefused("it uses TLS. Leave --trusted-network out here, or start it with --trusted-network")
    theirs += _hear(connected, _NONCE - len(_SEALING), until)
    _hear(connected, _PROOF, until, expected=credentials.proof("listener", mine + theirs))
    _say(connected, credentials.proof("dialler", mine + theirs), until)
    return _waiting(plain)


def _sealed(connected: socket.socket, plain: Plain, context: ssl.SSLContext, until: float, *, server: bool) -> Sealed:
    """Shake hands."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=server)
    begun = False
    while True:
        try:
            tls.do_handshake()
            _say(connected, outgoing.read(), until)
            return Sealed(_waiting(plain), tls, incoming, outgoing)
        except ssl.SSLWantReadError:
            _say(connected, outgoing.read(), until)
        except ssl.SSLError:
            _say(connected, outgoing.read(), until)  # what was wrong
            raise
        arrived = _hear_some(connected, until)
        if server and not begun and arrived[0] != _TLS_HANDSHAKE:
            _part_with(connected, _SEALING, until)
            raise ProtocolError(f"{plain.peer} does not begin with TLS.")
        begun = True
        incoming.write(arrived)


def _await_met(connection: Connection, until: float) -> None:
    word = b""
    while len(word) < len(_MET):
        buffer = memoryview(bytearray(len(_MET) - len(word)))
        connection.wait_at_most(send=_left(until), receive=_left(until))
        count = connection.receive(buffer)
        if count == 0:
            raise EOFError
        word += buffer[: max(count, 0)]
    if word != _MET:
        raise ProtocolError("it says something else than that we have met.")


def _explained(error: BaseException, address: str) -> BaseException:
    """What went wrong, for whoever dialled."""
    if isinstance(error, CredentialsRefused):
        return CredentialsRefused(f"{address} did not let this end in: {error}.")
    if isinstance(error, (ssl.SSLCertVerificationError, ProtocolError)):
        return CredentialsRefused(f"{address} does not hold the same secret: compare the two secret files.")
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return CredentialsRefused(
            f"{address} did not let this end in: it trusts its network and uses no TLS. Type --trusted-network here "
            "too, or start it without."
        )
    if isinstance(error, EOFError):
        return ConnectionResetError(f"{address} ended the connection before the two had met.")
    return error


# -- bytes of a handshake, each in time --------------------------------------------------------------------------------


def _hear(connected: socket.socket, size: int, until: float, *, expected: bytes | None = None) -> bytes:
    """So many bytes; what else comes instead of those expected is an error."""
    heard = b""
    while len(heard) < size:
        heard += _hear_some(connected, until, most=size - len(heard))
    if expected is not None and not hmac.compare_digest(heard, expected):
        raise ProtocolError("something else was expected.")
    return heard


def _hear_some(connected: socket.socket, until: float, *, most: int = _RECORD) -> bytes:
    connected.settimeout(_left(until))
    heard = connected.recv(most)
    if not heard:
        raise EOFError
    return heard


def _say(connected: socket.socket, words: bytes, until: float) -> None:
    connected.settimeout(_left(until))
    connected.sendall(words)


def _part_with(connected: socket.socket, words: bytes, until: float) -> None:
    """Say a last word; closed with bytes unread, the kernel would take it back."""
    _say(connected, words, until)
    connected.shutdown(socket.SHUT_WR)
    with suppress(EOFError):
        for _ in range(_LAST_BYTES):
            _hear_some(connected, until)


def _left(until: float) -> float:
    left = until - monotonic()
    if left <= 0.0:
        raise TimeoutError("the two had not met in time.")
    return left


def _waiting(plain: Plain) -> Plain:
    """Out of the handshake: from now on calls wait in the kernel."""
    plain.block()
    return plain


# -- sockets -----------------------------------------------------------------------------------------------------------


def _listening(host: str, port: int) -> socket.socket:
    if host in ("", "::") and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
    family, *_, place = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(place[:2], family=family, backlog=_BACKLOG)


def _prepare(connected: socket.socket) -> None:
    """Send at once what is handed in: a message of some dozen bytes waits for nothing."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _shut(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _written(name: tuple[object, ...]) -> str:
    """An address as one types it."""
    host, port = str(name[0]).removeprefix("::ffff:"), name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
