"""Agents of this machine and a cable that can be cut, for the tests of runs that others join."""

import os
import selectors
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tardigrad.engines.base import Observer
from tardigrad.engines.joined.agent import Agent
from tardigrad.engines.joined.resolving import Means
from tardigrad.logs import read_events
from tardigrad.transports.credentials import Credentials, new_secret, write_secret


def free_port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


class Does(Observer):
    """Does something the first time that a kind of event is told; after a version where that is given."""

    def __init__(self, **actions):
        self._actions, self.told = actions, []

    def _tell(self, name, *what):
        self.told.append((name, *what))
        action = self._actions.pop(name, None)
        if action is not None:
            action()

    def committed(self, time, commit):
        self._tell(f"at_{commit.version}")

    def failed(self, time, failure):
        self._tell("failed", failure)

    def left(self, time, worker, incarnation, reason):
        self._tell("left", worker, incarnation, reason)

    def joined(self, time, worker, incarnation):
        self._tell("joined", worker, incarnation)

    def invited(self, time, invitation):
        self._tell("invited", invitation)

    def noted(self, time, words):
        self._tell("noted", words)


def events(place, kind):
    return [event for event in read_events(place) if event[0] == kind]


class Site:
    """A server's address and secret, and the agents that dial it.

    Args:
        folder: for the secret.
        trusted: whether nothing is encrypted.
    """

    def __init__(self, folder: Path, *, trusted: bool = True):
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.trusted, self.secret = free_port(), trusted, new_secret()
        self.secret_file = folder / "shared-secret"
        write_secret(self.secret_file, self.secret)
        self.address = f"127.0.0.1:{self.port}"
        self.told = []
        self._stack = ExitStack()

    @property
    def settings(self):
        """Of a run that is served here."""
        place = {"listen": self.address, "secret_file": str(self.secret_file), "trusted_network": self.trusted}
        return {"engine": "joined", **place}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._stack.close()
        print("agents:", *self.told, sep="\n")

    def agent(self, places=1, *, address=None, again=False, script="", keep_trying=300.0, **means):
        """One in threads of this process; it leaves at the end."""
        agent = Agent(
            address or self.address,
            Credentials(self.secret, self.trusted),
            Means(script=str(script), **means),
            places=places,
            keep_trying=keep_trying,
            again=again,
            tell=self.told.append,
        )
        agent.errors = []
        agent.thread = threading.Thread(target=self._run, args=(agent,), name="agent")
        agent.thread.start()
        self._stack.callback(agent.thread.join, 30.0)
        self._stack.callback(agent.wishes.leave)
        return agent

    def process(self, places=1, *more):
        """One in a process of its own, which is killed at the end."""
        words = ["join", self.address, "--secret-file", str(self.secret_file), "--workers", str(places)]
        words += [*(["--trusted-network"] if self.trusted else []), *map(str, more)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tardigrad", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._stack.callback(process.wait, 30.0)
        self._stack.callback(process.kill)
        return process

    def cable(self):
        """A way to the server that can be cut."""
        return self._stack.enter_context(cable(self.port))

    def _run(self, agent):
        try:
            agent.run()
        except Exception as error:
            agent.errors.append(error)
            self.told.append(repr(error))


class Cable:
    """Carries bytes between those who dial ``address`` and the server, unless it is cut: then it is silent."""

    def __init__(self, port):
        self._port, self._cut, self._pairs = port, False, {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="cable")
        self._thread.start()

    def cut(self):
        """Nothing passes, and nobody is told."""
        self._cut = True
        os.write(self._woken, b"x")

    def mend(self):
        """Everything passes again; what was sent meanwhile too."""
        self._cut = False
        os.write(self._woken, b"x")

    def close(self):
        os.write(self._woken, b"q")
        self._thread.join()

    def _carry(self):
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self._wake, selectors.EVENT_READ)
            self._selector.register(self._listener, selectors.EVENT_READ)
            while self._turn():
                pass
        for each in (self._listener, *self._pairs):
            each.close()
        os.close(self._wake)
        os.close(self._woken)

    def _turn(self):
        for key, _ in self._selector.select():
            if key.fd == self._wake:
                if b"q" in os.read(self._wake, 64):
                    return False
                self._listen_to_all()
            elif key.fileobj is self._listener:
                self._let_in()
            else:
                self._pass_on(key.fileobj)
        return True

    def _listen_to_all(self):
        for each in (self._listener, *self._pairs):
            with suppress(KeyError, ValueError):
                self._selector.unregister(each)
            if not self._cut:
                self._selector.register(each, selectors.EVENT_READ)

    def _let_in(self):
        caller, _ = self._listener.accept()
        try:
            other = socket.create_connection(("127.0.0.1", self._port))
        except OSError:
            caller.close()
            return
        for one, two in ((caller, other), (other, caller)):
            self._pairs[one] = two
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, one):
        if one not in self._pairs:
            return
        try:
            data = one.recv(1 << 16)
            if data:
                self._pairs[one].sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (one, self._pairs[one]):
                self._pairs.pop(each)
                with suppress(KeyError, ValueError):
                    self._selector.unregister(each)
                each.close()


@contextmanager
def cable(port):
    made = Cable(port)
    try:
        yield made
    finally:
        made.close()
