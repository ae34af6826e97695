"""Several machines on one: hosts that are network namespaces, each with an address of its own, on one switch.

By hand, as root: ``python tests/hosts.py --names red green blue --rate 1gbit``. In a test:

    with Hosts(["red", "green", "blue"], rate="1gbit") as hosts:
        hosts.run("red", ["ping", "-c", "1", hosts.address("green")])
        hosts.cut("green")

A host has its own interfaces, addresses, ports and name; files, processors and memory are everybody's. Nothing has a
name that two labs could both want, and nothing outlives the process that made it: a namespace is held by one process,
which ends when this one does.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

NAMES = ("red", "green", "blue")
NETWORK = "10.77.0."  # each lab has a switch of its own, so all of them use these addresses
NEEDED = ("ip", "tc", "unshare", "nsenter", "setpriv")
SWITCH = "switch"

_CLONE_NEWNET = 0x40000000  # of sched.h
_ENDS_WITH_US = ["setpriv", "--pdeathsig", "KILL"]

# Shaping as a cheap switch does it: 256 KiB may pass at once, 50 ms of packets may wait.
_SHAPE = ["root", "tbf", "rate", "{rate}", "burst", "256k", "latency", "50ms"]


@functools.cache
def why_not() -> str:
    """Why hosts cannot be made here; empty where they can."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if sys.platform != "linux" or missing:
        return f"needs Linux with {', '.join(missing or NEEDED)}"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    try:
        with Hosts(["one"]):
            return ""
    except (OSError, subprocess.SubprocessError) as error:
        return f"network namespaces with a bridge cannot be made here: {error}"


@dataclass(slots=True)
class _Host:
    """One namespace and what was started in it."""

    address: str
    holder: subprocess.Popen[str]
    started: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def namespace(self) -> int:
        """The number by which processes of this host are known."""
        return os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino


class Hosts:
    """Hosts on one switch; to be closed, or used with `with`.

    Args:
        names: of the hosts, 1 to 200 of them, at most 8 letters each; they are their hostnames too.
        rate: what goes through each cable in each direction, in the words of tc, such as ``"1gbit"``; unlimited if
            empty.

    Raises:
        OSError or CalledProcessError: they cannot be made here; see `why_not`.
    """

    def __init__(self, names: Sequence[str] = NAMES, *, rate: str = "") -> None:
        self._hosts: dict[str, _Host] = {}
        try:
            self._switch = self._open(SWITCH, "")
            self._inside(self._switch, "ip", "link", "add", "bridge", "type", "bridge")
            self._inside(self._switch, "ip", "link", "set", "bridge", "up")
            for number, name in enumerate(names, 1):
                self._hosts[name] = self._open(name, f"{NETWORK}{number}")
                self._plug_in(name)
            if rate:
                self.limit(rate)
        except BaseException:
            self.close()
            raise

    def way_into(self, name: str) -> list[str]:
        """The words before a command that is to run on this host, or on the ``"switch"``."""
        return _way_into(self._switch if name == SWITCH else self._hosts[name])

    @property
    def names(self) -> list[str]:
        """Of the hosts, in the order given."""
        return list(self._hosts)

    def address(self, name: str) -> str:
        """Of a host, such as ``"10.77.0.1"``."""
        return self._hosts[name].address

    # -- what runs on them -------------------------------------------------------------------------------------------

    def popen(self, name: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on a host. It ends with the thread that started it at the latest.

        Args:
            name: of the host.
            argv: what to start.
            **options: of `subprocess.Popen`.
        """
        host = self._hosts[name]
        process = subprocess.Popen([*_way_into(host), *_ENDS_WITH_US, *argv], **options)
        host.started.append(process)
        return process

    def run(self, name: str, argv: Sequence[str], *, timeout: float = 60.0, **options: Any) -> str:
        """Run a process on a host to its end and return what it said, on both channels.

        Raises:
            CalledProcessError: it failed; the message ends with what it said.
            TimeoutExpired: it did not end in time, and was killed.
        """
        with self.popen(name, argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options) as process:
            try:
                said, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if process.returncode:
            raise Failed(process.returncode, list(argv), said)
        return said

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """While this lasts, what this thread opens, listens on and starts is on that host."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self._hosts[name].holder.pid}/ns/net", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(here)
            os.close(here)
            os.close(there)

    def processes(self, name: str) -> list[int]:
        """The numbers of the processes on this host."""
        host = self._hosts[name]
        return [pid for pid in _processes(host.namespace) if pid != host.holder.pid]

    # -- what happens to them ----------------------------------------------------------------------------------------

    def limit(self, rate: str) -> None:
        """From now on so much goes through each cable in each direction, in the words of tc; ``""``: no limit."""
        shape = [word.format(rate=rate) for word in _SHAPE]
        for name, host in self._hosts.items():
            for end, device in ((host, "eth0"), (self._switch, name)):
                with contextlib.suppress(subprocess.CalledProcessError):
                    self._inside(end, "tc", "qdisc", "del", "dev", device, "root")
                if rate:
                    self._inside(end, "tc", "qdisc", "add", "dev", device, *shape)

    def cut(self, name: str) -> None:
        """Pull the cable of a host out of the switch. Nobody is told; what is sent is lost."""
        self._inside(self._switch, "ip", "link", "set", name, "down")

    def heal(self, name: str) -> None:
        """Put the cable back."""
        self._inside(self._switch, "ip", "link", "set", name, "up")

    def kill(self, name: str) -> None:
        """A host's power fails: its cable is dead first, then its processes, so none of them can say goodbye."""
        self.cut(name)
        self._clear(self._hosts[name])

    def boot(self, name: str) -> None:
        """A host that was killed is there again, with nothing running on it."""
        self.heal(name)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every process and every namespace, whatever state they are in; a second time nothing happens."""
        everyone = [*self._hosts.values(), *([self._switch] if hasattr(self, "_switch") else [])]
        for host in everyone:
            if host.holder.poll() is None:
                self._clear(host)
            host.holder.kill()
            host.holder.communicate()
        self._hosts = {}

    def __enter__(self) -> Hosts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _open(self, name: str, address: str) -> _Host:
        """Make a namespace, held by a process that ends when its standard input does."""
        script = f"hostname {shlex.quote(name)} && ip link set lo up && echo ready && exec cat"
        holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the process that made it
        )
        said = _stream(holder.stdout).readline()
        if said != "ready\n":
            holder.kill()
            raise OSError(holder.communicate()[1].strip() or "no namespace")
        return _Host(address, holder)

    def _plug_in(self, name: str) -> None:
        """A cable from the host's eth0 to the port of the switch that has the host's name."""
        host, switch = self._hosts[name], self._switch
        ends = ["eth0", "type", "veth", "peer", "name", name, "netns", str(switch.holder.pid)]
        self._inside(host, "ip", "link", "add", *ends)
        self._inside(host, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        self._inside(host, "ip", "link", "set", "eth0", "up")
        self._inside(switch, "ip", "link", "set", name, "master", "bridge", "up")

    def _inside(self, host: _Host, *argv: str) -> None:
        done = subprocess.run([*_way_into(host), *argv], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(done.returncode, list(argv), done.stderr)

    def _clear(self, host: _Host) -> None:
        """Kill every process of a host, those that are being born included."""
        deadline = time.monotonic() + 20.0
        while left := [pid for pid in _processes(host.namespace) if pid != host.holder.pid]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in host.started:
                process.poll()  # reaped: or it would stand in the list for ever
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {left} cannot be killed")
        host.started = [process for process in host.started if process.poll() is None]


def _way_into(host: _Host) -> list[str]:
    return ["nsenter", f"--target={host.holder.pid}", "--net", "--uts"]


def _enter(namespace: int) -> None:
    """Move this thread into a network namespace that is open under this descriptor."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "this thread cannot change its network namespace")


class Failed(subprocess.CalledProcessError):
    """A command on a host failed; the message ends with what it said."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.output}"


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _processes(namespace: int) -> list[int]:
    """All that live in this network namespace; those that have ended and wait to be reaped do not."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            alive = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
            if alive and os.stat(f"/proc/{name}/ns/net").st_ino == namespace:
                found.append(int(name))
    return found


# -- by hand -----------------------------------------------------------------------------------------------------------

_HELP = """\
HOST COMMAND ...     run it there; with & at the end in the background, its words into HOST-1.log and so on
cut HOST, heal HOST  pull its cable out of the switch, put it back
kill HOST            its power fails; boot HOST: it is there again
limit RATE           such as 100mbit, through each cable in each direction; limit alone: no limit
list                 the hosts, their addresses, how many processes run there, and how to open a shell there
end                  everything is removed"""


class Prompt:
    """Commands, one a line."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._logs = 0

    def obey(self, line: str) -> None:
        """Do what one line asks for; a mistake is a sentence."""
        try:
            self._obey(shlex.split(line, comments=True))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            print(error, flush=True)

    def _obey(self, words: list[str]) -> None:
        match words:
            case []:
                return
            case ["cut" | "heal" | "kill" | "boot" as what, name] if name in self._hosts.names:
                getattr(self._hosts, what)(name)
            case ["limit", *rate] if len(rate) <= 1:
                self._hosts.limit("".join(rate))
            case ["list"]:
                self.show()
            case [name, *argv] if name in self._hosts.names and argv:
                self._start(name, argv)
            case _:
                print(_HELP)

    def show(self) -> None:
        """The hosts, one a line."""
        for name in self._hosts.names:
            count = len(self._hosts.processes(name))
            shell = shlex.join([*self._hosts.way_into(name), os.environ.get("SHELL", "sh")])
            address = self._hosts.address(name)
            print(f"{name:8}  {address:10}  {count:3} processes   a shell there: {shell}", flush=True)

    def _start(self, name: str, argv: list[str]) -> None:
        if argv[-1] != "&":
            with contextlib.suppress(KeyboardInterrupt):
                self._hosts.popen(name, argv).wait()
            return
        self._logs += 1
        path = f"{name}-{self._logs}.log"
        with open(path, "wb") as log:
            self._hosts.popen(name, argv[:-1], stdout=log, stderr=log, start_new_session=True)
        print(f"runs on {name}; what it says is in {path}", flush=True)


def main() -> int:
    """The command line: hosts, and a prompt to work on them."""
    parser = argparse.ArgumentParser(description="Hosts that are network namespaces of this machine, on one switch.")
    parser.add_argument("--names", nargs="+", default=list(NAMES), help="of the hosts, at most 8 letters each")
    parser.add_argument("--rate", default="", help="of each cable, such as 1gbit")
    given = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"{socket.gethostname()}: {reason}", file=sys.stderr)
        return 1
    with Hosts(given.names, rate=given.rate) as hosts:
        prompt = Prompt(hosts)
        prompt.show()
        print("`help` lists what can be typed here.", flush=True)
        with contextlib.suppress(KeyboardInterrupt, EOFError):
            while (line := input("> ")).strip() not in ("end", "exit", "quit"):
                prompt.obey(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
