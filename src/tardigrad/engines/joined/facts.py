"""Facts: what the results of a worker depend on beside its task, compared before it begins.

Two machines that train together run the same code: the same version of Tardigrad, Python and PyTorch, the same source
files of this package, of what the run imports, and of the script. What differs is said in a sentence with what to do.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Self

import torch

from tardigrad._version import __version__
from tardigrad.session.scripts import IMPORTED, MAIN, Script


@dataclass(frozen=True, slots=True)
class ScriptMark:
    """The script that a process was started with.

    Attributes:
        path: of its file.
        digest: of the file's bytes, hexadecimal; empty where the function to be called lies in another file, which is
            compared once it is known.
    """

    path: str
    digest: str

    @classmethod
    def of_file(cls, path: str | Path) -> Self:
        """Of a script that is there."""
        return cls(str(path), digest_of(Path(path)))

    @classmethod
    def of(cls, script: Script) -> Self:
        """Of what a run is given, in the process that was started with it."""
        if script.module in (MAIN, IMPORTED):
            return cls(script.path, script.digest)
        return cls(getattr(sys.modules[MAIN], "__file__", None) or script.path, "")


@dataclass(frozen=True, slots=True)
class Facts:
    """What two machines that train together must have in common.

    Attributes:
        versions: of tardigrad, torch and python.
        code: digest of this package's source files.
        imports: file's or module's own name -> digest of its source, of what the run imports or the agent was given.
        script: None: a task is trained.
    """

    versions: Mapping[str, str]
    code: str
    imports: Mapping[str, str] = field(default_factory=dict)
    script: ScriptMark | None = None

    @classmethod
    def own(cls, imports: Sequence[str] = (), script: ScriptMark | None = None) -> Self:
        """Of this process; ``imports``: modules or Python files, as of `RunConfig`."""
        versions = {"tardigrad": __version__, "torch": torch.__version__, "python": platform.python_version()}
        return cls(versions, code_digest(), import_digests(imports), script)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        script = None if self.script is None else {"path": self.script.path, "digest": self.script.digest}
        fingerprint = {"code": self.code, "imports": dict(self.imports)}
        return {"versions": dict(self.versions), "fingerprint": fingerprint, "script": script}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`; other keys beside are passed over. Raises KeyError, TypeError, ValueError."""
        script, fingerprint = plain["script"], plain["fingerprint"]
        mark = None if script is None else ScriptMark(**_texts(script))
        return cls(_texts(plain["versions"]), str(fingerprint["code"]), _texts(fingerprint["imports"]), mark)


def _texts(plain: Mapping[str, Any]) -> dict[str, str]:
    found = dict(plain)
    if not all(isinstance(each, str) for each in (*found, *found.values())):
        raise TypeError(f"{found!r} is not all text")
    return found


def compare(server: Facts, agent: Facts) -> str:
    """Why a worker of the agent must not take part in the server's run; empty where it may.

    Of an import that only one of both names nothing is said here: the agent looks for it when it is assigned.
    """
    return _versions(server, agent) or _code(server, agent) or _imports(server, agent) or _scripts(server, agent)


def _versions(server: Facts, agent: Facts) -> str:
    for name, here in server.versions.items():
        there = agent.versions.get(name, "none")
        if _counts(name, here) != _counts(name, there):
            how = f"pip install {name}=={_counts(name, here)}" if name != "python" else f"use Python {here}"
            return f"the run computes with {name} {here}, this machine has {there}. On this machine: {how}."
    return ""


def _counts(name: str, version: str) -> str:
    """What of a version must be equal: of Python the first two numbers; of PyTorch not for which GPUs it was built."""
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def _code(server: Facts, agent: Facts) -> str:
    if server.code == agent.code:
        return ""
    return (
        f"both machines have Tardigrad {server.versions.get('tardigrad')}, but its source files differ (digest "
        f"{server.code[:8]} at the server, {agent.code[:8]} here): one of them was changed. Install the same source on "
        "both."
    )


def _imports(server: Facts, agent: Facts) -> str:
    for name, digest in server.imports.items():
        if agent.imports.get(name, digest) != digest:
            return f"{name}, which the run imports, is another one on this machine. Copy the server's {name} here."
    return ""


def _scripts(server: Facts, agent: Facts) -> str:
    theirs, mine = server.script, agent.script
    if theirs is None and mine is not None:
        return f"this run trains a task and no script: leave {_name(mine)} out of the line."
    if theirs is not None and mine is None:
        return (
            f"this run is of the script {_name(theirs)}: copy it to this machine, and add its path to the line: "
            f"tardigrad join ... {_name(theirs)}"
        )
    if theirs is None or mine is None or not theirs.digest or not mine.digest or theirs.digest == mine.digest:
        return ""
    return f"{_name(mine)} is not what the run was started with ({_name(theirs)}). Copy the server's file here."


def _name(mark: ScriptMark) -> str:
    return Path(mark.path).name


@functools.cache
def code_digest() -> str:
    """A digest of this package's Python files and their names."""
    root, found = Path(__file__).resolve().parents[2], hashlib.blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\0{digest_of(path)}\n".encode())
    return found.hexdigest()


def import_digests(names: Sequence[str]) -> dict[str, str]:
    """Own name of each file or module -> digest of its source; of what is not there, or has none, nothing."""
    found = {own_name(name): source_of(name) for name in names}
    return {name: digest_of(path) for name, path in found.items() if path is not None}


def own_name(name: str) -> str:
    """A file's name without its folder, or a module's name: the same on every machine."""
    return Path(name).name if name.endswith(".py") else name


def source_of(name: str, folders: Sequence[str] | None = None) -> Path | None:
    """The source file of a module, or a Python file by its path; None where there is none. Nothing is imported.

    Args:
        name: such as ``package.module`` or ``folder/file.py``.
        folders: where modules are looked for; None: as Python does.
    """
    if name.endswith(".py"):
        return Path(name) if Path(name).is_file() else None
    where: Sequence[str] | None = sys.path if folders is None else folders
    spec, known = None, ""
    for part in name.split("."):
        known = f"{known}.{part}" if known else part
        spec = PathFinder.find_spec(known, where)
        if spec is None:
            return None
        where = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def digest_of(path: Path) -> str:
    """Of a file's bytes, hexadecimal, as of `tardigrad.session.scripts.Script`."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
