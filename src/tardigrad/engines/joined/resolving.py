"""Resolving: from what a server assigned to what is found on this machine: files, devices, folders of data."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tardigrad.engines.joined.facts import Facts, ScriptMark, digest_of, own_name, source_of
from tardigrad.engines.joined.greeting import Assignment, TaskAssignment
from tardigrad.engines.joined.household import Main
from tardigrad.engines.local.acting import Part
from tardigrad.engines.local.places import device_of
from tardigrad.engines.local.processes import Duty
from tardigrad.engines.local.turns import Turn
from tardigrad.errors import InvalidArgument, SessionError
from tardigrad.session.scripts import IMPORTED, MAIN, Script


@dataclass(frozen=True, slots=True)
class Means:
    """What an agent has for the workers of its places.

    Attributes:
        device: cpu, cuda:N, or cuda: the GPUs in turn.
        data_dir: folder with data sets; empty: the default of this machine.
        imports: modules or files that take the place of the run's of the same name.
        script: path of the script; empty for a task.
        args: of the script; empty: as the server's.
        call: the script's function and its arguments, where this process makes the same call as the server's did.
        turns: one for every two places, whose workers compute in turn; empty: each computes whenever it may.
    """

    device: str = "cpu"
    data_dir: str = ""
    imports: tuple[str, ...] = ()
    script: str = ""
    args: tuple[str, ...] = ()
    call: Script | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def facts(self) -> Facts:
        """What is compared with the server's."""
        if self.call is not None:
            return Facts.own(self.imports, ScriptMark.of(self.call))
        return Facts.own(self.imports, ScriptMark.of_file(self.script) if self.script else None)

    @property
    def runs_script(self) -> bool:
        """Whether its workers run a script."""
        return self.call is not None or bool(self.script)

    def duty(self, assignment: Assignment, number: int) -> Duty:
        """What a worker in place ``number`` that computes a task is told.

        Raises:
            InvalidArgument: something that the run imports is not here, or another; the sentence says which.
        """
        task = assignment.task
        assert task is not None
        imports = tuple(_found(name, self.imports, task) for name in task.blueprint.imports)
        blueprint = replace(task.blueprint, imports=imports, data_dir=self.data_dir)
        turn, lane = (self.turns[number // 2], number // 2) if self.turns else (None, number)
        return Duty(assignment.worker, blueprint.on(device_of(lane, self.device)), task.speed, turn)

    def parts(self, assignment: Assignment, number: int) -> list[Part]:
        """What each process of a worker in place ``number`` that runs a script is told, the leader first."""
        assert assignment.script is not None
        part = assignment.script.part
        devices = [device_of(number * part.group + rank, self.device) for rank in range(part.group)]
        return [replace(part, rank=rank, device=device) for rank, device in enumerate(devices)]

    def role(self, assignment: Assignment) -> Script:
        """The script's function, as it is found on this machine.

        Raises:
            InvalidArgument: it is not here, or another one; the sentence says what to do.
        """
        assert assignment.script is not None
        theirs = assignment.script.script
        if self.call is not None:
            _require_same_call(self.call, theirs)
            return self.call
        try:
            script = Script.from_json(theirs)
        except SessionError as error:
            raise InvalidArgument(f"the run's script cannot be joined by its file alone: {error}") from error
        given = os.path.realpath(self.script)
        folder = os.path.dirname(given)
        path = given if script.module in (MAIN, IMPORTED) else _module_file(script, folder)
        _require_same_file(Path(path), script.digest)
        return replace(script, path=path, folder=folder, argv=self.args or script.argv)

    def main(self, script: Script | None = None) -> Main:
        """What the processes of a worker import first; ``script``: as `role` found it, None for a task."""
        if self.call is not None:
            return Main(own=True)
        return Main() if script is None else Main(os.path.realpath(self.script), script.argv)


def _found(name: str, own: Sequence[str], task: TaskAssignment) -> str:
    """Where something that the run imports is found on this machine; the same source as the server's."""
    known = {own_name(each): each for each in own}
    here = known.get(own_name(name), name)
    source = source_of(here)
    if source is None and own_name(name) in task.imports:
        raise InvalidArgument(
            f"the run imports {name}, which is not on this machine: copy it here, and type --imports {own_name(name)}"
        )
    if source is not None and task.imports.get(own_name(name), digest_of(source)) != digest_of(source):
        raise InvalidArgument(f"{source} is not what the run imports as {name}. Copy the server's file here.")
    return here


def _module_file(script: Script, folder: str) -> str:
    source = source_of(script.module, [folder, *sys.path])
    if source is None:
        raise InvalidArgument(
            f"the run calls {script.qualname} of the module {script.module}, which is not on this machine: put it "
            "beside the script, or install it."
        )
    return os.path.realpath(source)


def _require_same_file(path: Path, digest: str) -> None:
    if digest_of(path) != digest:
        raise InvalidArgument(f"{path} is not what the run was started with. Copy the server's file here.")


def _require_same_call(mine: Script, theirs: Mapping[str, Any]) -> None:
    """Where both were started with the same script, both must have called `tardigrad.run` alike."""
    for name, here in (("qualname", mine.qualname), ("digest", mine.digest)):
        if theirs[name] != here:
            raise InvalidArgument(
                f"the server runs {theirs['qualname']} of {theirs['path']}, this process {mine.qualname} of "
                f"{mine.path}, or the file differs: every process must call tardigrad.run() with the same function."
            )
