"""Processes of a benchmark, one of which is talked to: a number in, a line of JSON out, until its input is closed."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Self

Reply = Mapping[str, Any]


def started(command: Sequence[str], errors: IO[str]) -> subprocess.Popen[str]:
    """A process whose input and output are this one's, and whose errors are written there."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)


class Talk:
    """Processes that end together.

    Args:
        processes: the last of them is talked to.
        errors: where it writes them.
        silence: seconds after which one that says nothing is given up.
        grace: seconds in which each of them ends when its input is closed.

    Attributes:
        missing: why it says nothing more; empty as long as it does.
    """

    def __init__(
        self, processes: Sequence[subprocess.Popen[str]], errors: IO[str], *, silence: float, grace: float = 20.0
    ) -> None:
        self._processes, self._errors = list(processes), errors
        self._silence, self._grace = silence, grace
        self.missing = ""

    def turn(self, times: int) -> Reply:
        """Exchange so often: what it says of that; nothing where it is missing."""
        stdin = self._processes[-1].stdin
        assert stdin is not None
        if not self.missing:
            with suppress(OSError):  # then it has ended, and its output says so
                print(times, file=stdin, flush=True)
        return {} if self.missing else self.hear()

    def hear(self) -> Reply:
        """What it says next, or that it is missing."""
        talks = self._processes[-1]
        assert talks.stdout is not None
        alarm = threading.Timer(self._silence, talks.kill)
        alarm.start()
        try:
            for line in talks.stdout:
                if line.startswith("{"):
                    said: Reply = json.loads(line)
                    self.missing = said.get("missing", "")
                    return said
        finally:
            alarm.cancel()
        self.missing = self._last_words()
        return {}

    def close(self) -> None:
        """End them, the one that is talked to first."""
        for process in reversed(self._processes):
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(OSError):
                process.stdin.close()
            try:
                process.wait(self._grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def _last_words(self) -> str:
        """Why it ended, without the names of this machine's folders."""
        code = self._processes[-1].wait()
        self._errors.seek(0)
        lines = self._errors.read().splitlines()
        return f"ended with {code}: {re.sub(r'/[^ ]*', '...', lines[-1]) if lines else ''}"
