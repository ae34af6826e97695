"""Invitation: how workers join a run from other machines, as a small file in its directory. Imports no torch.

join.json       where the run's server listens, and what to type; readable by its owner only, removed at the end
secret          what agents prove themselves with, unless another file was named; stays while the run can go on
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tardigrad.errors import RunDirectoryError
from tardigrad.presence import write_beside

FORMAT = 1
JOIN, SECRET = "join.json", "secret"
SECRET_VARIABLE = "TARDIGRAD_SECRET"
"""Environment variable that holds the secret, where no file is named."""
_EVERYWHERE = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where a run's server waits for agents.

    Attributes:
        address: ``"host:port"``, as other machines may reach it.
        secret_file: with what agents prove themselves, on the server's machine.
        trusted: whether nothing is encrypted.
        script: path of the script, on the server's machine; empty for a task.
    """

    address: str
    secret_file: str
    trusted: bool = False
    script: str = ""

    @property
    def line(self) -> str:
        """What to type on another machine, where the secret lies in a file."""
        return self._line("--secret-file", self.secret_file)

    def line_with_secret(self) -> str:
        """The same without the file: what to show to nobody but the run's owner. Raises OSError: there is no file."""
        return f"{SECRET_VARIABLE}={shlex.quote(Path(self.secret_file).read_text().strip())} {self._line()}"

    def _line(self, *secret: str) -> str:
        words = ["tardigrad", "join", self.address, *secret, *(["--trusted-network"] if self.trusted else [])]
        return shlex.join(words + ([Path(self.script).name] if self.script else []))

    def write(self, directory: Path) -> None:
        """Into a run's directory, where its owner may read it. Raises OSError."""
        path = directory / JOIN
        write_beside(path, {"format": FORMAT, **dataclasses.asdict(self)})
        path.chmod(0o600)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The inverse of `write`.

        Raises:
            RunDirectoryError: this run waits for nobody.
        """
        try:
            plain = json.loads((directory / JOIN).read_text())
            if plain.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**plain)
        except FileNotFoundError:
            raise RunDirectoryError(
                f"{directory} waits for no workers: it holds no {JOIN}. A run that others may join is started with "
                "tardigrad serve, and waits as long as it runs."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{directory / JOIN} cannot be read: {error}.") from error


def find_invitation(directory: Path) -> Invitation | None:
    """How to join the run of this directory; None where it waits for nobody."""
    with suppress(RunDirectoryError):
        return Invitation.read(directory)
    return None


def withdraw(directory: Path) -> None:
    """The run has ended: nobody joins it any more."""
    with suppress(OSError):
        (directory / JOIN).unlink(missing_ok=True)


def reachable(address: str) -> str:
    """The address as other machines may type it: of one that stands for all of this machine's, one of those.

    >>> reachable("10.0.0.2:7070")
    '10.0.0.2:7070'
    """
    host, _, port = address.rpartition(":")
    return f"{_own_address()}:{port}" if host.strip("[]") in _EVERYWHERE else address


def _own_address() -> str:
    """The address by which this machine reaches others; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))  # kept for documentation: nobody is there
            return str(asked.getsockname()[0])
        except OSError:
            return os.uname().nodename
