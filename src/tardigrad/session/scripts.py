"""Scripts: how another process, or a replay, finds the function that a user's script gave to `tardigrad.run`.

A worker is a new process. Python imports the user's script there once more, under the name ``__mp_main__``, so that
what stands under ``if __name__ == "__main__":`` does not run again; then the function is looked up by its name. So it
must have one: a function at the top of a file.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from tardigrad.children import is_child
from tardigrad.errors import SessionError

LAUNCH_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RUN_ID",
    "FORK_LAUNCHED",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
    "ACCELERATE_USE_SAGEMAKER",
    "PMI_RANK",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_SIZE",
)
"""What torchrun, accelerate and MPI launchers set, and what makes accelerate or transformers set up groups alone."""

MAIN = "__main__"
IMPORTED = "__mp_main__"
"""What a script is called where it is imported and not run; multiprocessing's own name."""

_RECORDED = ("module", "importable", "qualname", "path", "folder", "digest")


@dataclass(frozen=True, slots=True)
class Script:
    """Where a function is found again, and what it is called with. It travels to workers; `as_json` into a record.

    Attributes:
        module: name of the module that holds the function; ``__main__`` for the script that was started.
        importable: name under which a process that is not a worker imports it; empty where only the path leads to it.
        qualname: of the function within the module, such as ``main`` or ``Experiment.main``.
        path: absolute path of the file that holds it.
        folder: where modules were looked for first: the script's own folder, as a rule.
        argv: the script's own arguments.
        digest: of that file's bytes, hexadecimal.
        args: what the function takes after the session.
        owner: the object whose method it is; None for a function.
    """

    module: str
    importable: str
    qualname: str
    path: str
    folder: str
    argv: tuple[str, ...]
    digest: str
    args: tuple[Any, ...] = ()
    owner: Any = None

    @classmethod
    def of(cls, function: Callable[..., Any], args: Sequence[Any] = ()) -> Self:
        """Describe a function, so that a worker finds it.

        Args:
            function: called as ``function(session, *args)``.
            args: what travels with it; picklable.

        Raises:
            SessionError: no other process could find it, or it cannot be called so.
        """
        owner = _owner(function)
        _require_name(function)
        module, qualname = function.__module__, function.__qualname__
        home = sys.modules.get(module)
        path = getattr(home, "__file__", None)
        if home is None or path is None or not os.path.isfile(path):
            raise SessionError(
                f"{qualname} was typed in and lies in no file, so that no worker's process can import it. Put it into "
                "a file and run that; or type engine=None."
            )
        _require_found(home, function, qualname, owner)
        _require_callable(function, args)
        _require_travels(args, owner, qualname)
        path = os.path.realpath(path)
        importable = module if module not in (MAIN, IMPORTED) else _name_of(home)
        folder, argv = os.path.abspath(sys.path[0]), tuple(sys.argv[1:])
        return cls(module, importable, qualname, path, folder, argv, _digest(path), tuple(args), owner)

    def load(self) -> Callable[[Any], Any]:
        """The function, to be called with the session, in a process that multiprocessing started from the script's.

        Raises:
            SessionError: it is not there (any more).
        """
        return self._bound(self._module())

    @contextmanager
    def in_place(self) -> Iterator[Callable[[Any], Any]]:
        """In any other process, for a replay: the function, while arguments and folder are as the script had them.

        Of a script that was started as a file, ``__main__`` is its module meanwhile.

        Raises:
            SessionError: the file has changed, is not there, or the arguments were not recorded.
        """
        self._require_unchanged()
        if self.importable:
            with _standing_in(self.path, self.argv, self.folder):
                yield self._bound(importlib.import_module(self.importable))
            return
        with as_main(self.path, self.argv, name=IMPORTED) as module:
            execute(module)
            yield self._bound(module)

    def as_json(self) -> dict[str, Any]:
        """Plain data for a record. ``args`` is None where JSON cannot hold what the function was called with."""
        plain = {name: getattr(self, name) for name in _RECORDED}
        return plain | {"argv": list(self.argv), "args": _plain(self.args) if self.owner is None else None}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `as_json`.

        Raises:
            SessionError: its arguments could not be recorded.
        """
        if plain["args"] is None:
            raise SessionError(
                f"{plain['qualname']} of {plain['path']} was called with objects that a record cannot hold, so it "
                "cannot be called again. What a run is to be replayed with should be numbers, strings, lists and "
                "dicts in args=, or be read from sys.argv inside the function."
            )
        named = {name: plain[name] for name in _RECORDED}
        return cls(**named, argv=tuple(plain["argv"]), args=tuple(plain["args"]))

    def _module(self) -> ModuleType:
        """The module that holds the function, in a child of the process that described it."""
        if self.module not in (MAIN, IMPORTED):
            return importlib.import_module(self.module)
        main = sys.modules[MAIN]
        if os.path.realpath(getattr(main, "__file__", None) or "") != self.path:
            raise SessionError(f"this process was not started from {self.path}, and cannot find {self.qualname}.")
        return main

    def _bound(self, home: ModuleType) -> Callable[[Any], Any]:
        try:
            function = operator.attrgetter(self.qualname)(home)
        except AttributeError as error:
            raise SessionError(f"{self.path} has no {self.qualname} any more.") from error
        if self.owner is not None:
            function = partial(function, self.owner)
        return lambda session: function(session, *self.args)

    def _require_unchanged(self) -> None:
        if not os.path.isfile(self.path):
            raise SessionError(f"the script {self.path} is not there; put it back where it was.")
        if _digest(self.path) != self.digest:
            raise SessionError(
                f"the script {self.path} has changed since; what it computes now is not what was computed then."
            )


def guard() -> None:
    """Refuse to start training in a worker, which imports the script once more.

    Raises:
        SessionError: this process is a worker.
    """
    if is_child():
        raise SessionError(
            "tardigrad.run() was reached inside a worker, which imports the script once more to find its functions. "
            "Put the call under a guard:\n\n"
            '    if __name__ == "__main__":\n'
            "        tardigrad.run(main, ...)\n"
        )


@contextmanager
def launch_variables_removed() -> Iterator[dict[str, str]]:
    """While this lasts the environment has no variable of another launcher; yields those that were there.

    With them Hugging Face's Trainer, for one, would start DistributedDataParallel by itself.
    """
    found = {name: os.environ.pop(name) for name in LAUNCH_VARIABLES if name in os.environ}
    try:
        yield found
    finally:
        os.environ.update(found)


@contextmanager
def as_main(path: str | Path, argv: Sequence[str], *, name: str = MAIN) -> Iterator[ModuleType]:
    """While this lasts ``__main__`` is a new, empty module of that file, and arguments and path are as it expects.

    So processes that are started meanwhile import the file as if Python had been started with it. `execute` fills the
    module.

    Args:
        path: of the file.
        argv: its arguments, without its own name.
        name: what the module is called: ``__main__`` to run the file, ``__mp_main__`` to import it.
    """
    file = os.path.realpath(path)
    module = ModuleType(name)
    module.__file__, module.__spec__ = file, None
    before = sys.modules[MAIN], sys.modules.get(IMPORTED)
    with _standing_in(file, argv, os.path.dirname(file)):
        sys.modules[MAIN] = sys.modules[name] = module
        try:
            yield module
        finally:
            sys.modules[MAIN] = before[0]
            if before[1] is None:
                sys.modules.pop(IMPORTED, None)
            else:
                sys.modules[IMPORTED] = before[1]


@contextmanager
def _standing_in(file: str, argv: Sequence[str], folder: str) -> Iterator[None]:
    """While this lasts, arguments and the first folder of the path are those of a script."""
    before = sys.argv, list(sys.path)
    sys.argv, sys.path[:0] = [file, *argv], [folder]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before


def execute(module: ModuleType) -> None:
    """Run a module's file in it."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_bytes()
    exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)


def _owner(function: Any) -> Any:
    """The object whose method this is; None for a function and for a method of a class."""
    owner = getattr(function, "__self__", None)
    return None if inspect.isclass(owner) or inspect.ismodule(owner) else owner


def _require_name(function: Any) -> None:
    """Refuse what has no name that leads to it from the top of a file."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        shown = "a functools.partial" if isinstance(function, partial) else f"{function!r}"
        raise SessionError(
            f"run() takes a function that begins `def main(session):`; {shown} is none. What else it needs goes into "
            "args=(...), and it is called as main(session, *args)."
        )
    if "<lambda>" in function.__qualname__:
        raise SessionError(
            "run() was given a lambda, which has no name that a worker's process could find it by. Write `def "
            "main(session):` at the top of the file; what else it needs goes into args=(...)."
        )
    if "<locals>" in function.__qualname__:
        outer, _, name = function.__qualname__.rpartition(".<locals>.")
        raise SessionError(
            f"{name} is defined inside {outer}, where a worker's process cannot find it. Move it to the top of the "
            "file; what it takes from around it goes into args=(...)."
        )


def _require_found(home: ModuleType, function: Any, qualname: str, owner: Any) -> None:
    """Refuse a function whose name leads to something else."""
    found: Any = home
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found != (function if owner is None else function.__func__):
        raise SessionError(
            f"the name {qualname} in {home.__file__} does not lead to the function that run() was given, so a "
            "worker's process would run something else. Give each function a name of its own."
        )


def _require_callable(function: Callable[..., Any], args: Sequence[Any]) -> None:
    """Refuse a function that does not take a session and the arguments."""
    try:
        inspect.signature(function).bind(None, *args)
    except TypeError as error:
        more = f" and {len(args)} more from args=" if args else ""
        raise SessionError(
            f"{function.__qualname__}{inspect.signature(function)} is called with the session{more}: {error}. Begin it "
            f"`def {function.__name__}(session{', ...' if args else ''}):`."
        ) from error


def _require_travels(args: Sequence[Any], owner: Any, qualname: str) -> None:
    """Refuse arguments that cannot be sent to another process."""
    what = "args=" if owner is None else f"args=, or the object whose method {qualname} is,"
    try:
        ForkingPickler.dumps((tuple(args), owner))
    except Exception as error:  # pickling runs the objects' own code, which may raise anything
        raise SessionError(
            f"{what} cannot travel into a worker's process ({error}). Give numbers, strings and paths, and build the "
            "rest inside the function."
        ) from error


def _name_of(main: ModuleType) -> str:
    """Under which name `python -m` was given this module; empty for a file."""
    spec = getattr(main, "__spec__", None)
    return "" if spec is None or spec.name in (MAIN, IMPORTED) else spec.name


def _plain(args: tuple[Any, ...]) -> list[Any] | None:
    """The arguments as JSON gives them back; None where it gives back something else."""
    try:
        again = json.loads(json.dumps(args))
    except (TypeError, ValueError):
        return None
    return list(again) if again == list(args) else None


def _digest(path: str) -> str:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()
