"""A Ray cluster of two hosts, each with a raylet of its own, for as long as its driver is wanted."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

DRIVER = Path(__file__).resolve().with_name("hosts_ray.py")
_STORE = 1_500_000_000  # bytes of each host's object store
_PORT = 7399


class Cluster:
    """Two nodes, and the driver of hosts_ray.py.

    Args:
        command: makes words into what runs them on host 0 or 1.
        addresses: of the two.
        parameters: how many float32 there are.
    """

    def __init__(
        self, command: Callable[[int, Sequence[str]], list[str]], addresses: tuple[str, str], parameters: int
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="hosts-ray-", ignore_cleanup_errors=True)
        self._environment = {**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        self._environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._command, self._nodes = command, []
        address = f"{addresses[0]}:{_PORT}"
        head = ["--head", f"--port={_PORT}", "--include-dashboard=false", f"--temp-dir={self._folder.name}/ray"]
        for place, (resource, words) in enumerate((("server", head), ("worker", [f"--address={address}"]))):
            self._nodes.append(self._start(place, [*words, f"--node-ip-address={addresses[place]}"], resource))
            time.sleep(5.0)  # until it stands
        told = json.dumps({"address": address, "parameters": parameters})
        pipe, words = subprocess.PIPE, command(0, [sys.executable, str(DRIVER), told])
        silent = subprocess.DEVNULL
        self.driver = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=silent, text=True, env=self._environment)

    def close(self) -> None:
        """End all of it."""
        assert self.driver.stdin is not None
        with suppress(OSError):
            self.driver.stdin.close()
        for process in (self.driver, *reversed(self._nodes)):
            try:
                process.wait(20 if process is self.driver else 0)
            except subprocess.TimeoutExpired:
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        self._folder.cleanup()

    def _start(self, place: int, words: Sequence[str], resource: str) -> subprocess.Popen[bytes]:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2"]
        own = [f"--resources={json.dumps({resource: 1})}", f"--object-store-memory={_STORE}", "--disable-usage-stats"]
        silent = subprocess.DEVNULL
        command = self._command(place, [*ray, *words, *own])
        return subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent, env=self._environment)
