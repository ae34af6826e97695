"""A run between hosts, as one types it: a server, agents, and what the run's directory says of them."""

import os
import signal
import sys
import time
from pathlib import Path

from tardigrad.errors import RunDirectoryError
from tardigrad.logs import read_events

HERE = Path(__file__).resolve().parent
TARDIGRAD = [sys.executable, "-m", "tardigrad"]
SAMPLES, BATCH, EPOCHS = 1280, 8, 5  # of paced.py, whose import would register its task in this process


def wait_until(happened, what, seconds=180.0):
    """Look again and again, since nothing announces it; return what was found."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(0.05)
    return found


class Between:
    """One run: served on one host, joined from others.

    Args:
        hosts: of the lab.
        place: a folder for all that belongs to the run.
        port: of its server, on the host ``red``.
        recipe: what is served; or
        script: and its arguments, which agents are given too.
        settings: of the run.
        pace: seconds that a gradient takes, until `take` is called.
    """

    def __init__(self, hosts, place, port, *, recipe=(), script=(), settings=(), pace=2.0):
        place.mkdir(parents=True)
        self.directory = place / "run"
        self._hosts, self._place = hosts, place
        self._address = f"{hosts.address('red')}:{port}"
        self._recipe, self._script, self._settings = recipe, script, settings
        self._pace = place / "pace"
        self._pace.write_text(str(pace))
        self.secret = self.directory / "secret"
        self.processes = {}
        self._logs = 0

    def begin(self):
        """Start the server of a new run."""
        where = ["--listen", self._address, "--directory", self.directory]
        self._serve(*self._recipe, *where, *self._settings, *self._script)
        self.wait(self.secret.exists)

    def resume(self):
        """Start the server again."""
        self._serve("--resume", self.directory, "--listen", self._address)

    def _serve(self, *words):
        self.processes["server"] = self._start("red", "serve", *words)

    def join(self, host, workers=1):
        """Start an agent."""
        words = [self._address, "--secret-file", self.secret, "--workers", workers, *self._script]
        self.processes[host] = self._start(host, "join", *words)

    def take(self, seconds):
        """From now on a gradient takes so long."""
        beside = self._pace.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.replace(self._pace)

    def events(self, *kinds):
        """Those of these kinds that stand in the log by now."""
        try:
            return [event for event in read_events(self.directory) if event[0] in kinds]
        except (OSError, RunDirectoryError):
            return []  # not written yet

    def commits(self, worker=None):
        """How many there are; of one worker."""
        return sum(worker is None or event[5][0][0] == worker for event in self.events("commit"))

    def wait(self, happened, seconds=180.0):
        """Until that is so; where it takes too long the error says what everybody said."""

        def or_failed():
            failed = [
                name for name, process in self.processes.items() if process.poll() not in (None, 0, -signal.SIGKILL)
            ]
            assert not failed, f"{failed}:\n{self.said()}"
            return happened()

        return wait_until(or_failed, self.said, seconds)

    def worker_processes(self, host):
        """Of the workers on a host: children of the forkserver that the agent has started."""
        parents = {pid: _parent(pid) for pid in self._hosts.processes(host)}
        mine = self.processes[host].pid
        return [pid for pid, parent in parents.items() if parents.get(parent) == mine]

    def said(self):
        """What every process has said."""
        return "\n".join(f"-- {path.name}\n{path.read_text()}" for path in sorted(self._place.glob("*.log")))

    def end(self):
        """Wait for the server's end; its exit status."""
        return self.processes["server"].wait(timeout=120)

    def _start(self, host, *words):
        self._logs += 1
        environment = os.environ | {"SECONDS_A_GRADIENT": str(self._pace), "OMP_NUM_THREADS": "1"}
        with (self._place / f"{self._logs}-{host}.log").open("wb") as log:
            said = {"stdout": log, "stderr": log, "env": environment, "cwd": HERE}
            return self._hosts.popen(host, [*TARDIGRAD, *map(str, words)], **said)


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def _parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


__all__ = ["HERE", "TARDIGRAD", "Between", "kill", "wait_until"]
