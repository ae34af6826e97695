"""`export`: the weights and buffers of a run as one safetensors file that the plain model loads, without Tardigrad."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from tardigrad._version import __version__
from tardigrad.assembling import assemble, blueprint_of
from tardigrad.checkpoint import read_checkpoint
from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument, RunDirectoryError, TardigradError
from tardigrad.rules.base import make_rule
from tardigrad.tasks.base import Task

_WEIGHTS = "weights.safetensors"


def export(
    directory: str | Path,
    *,
    output: str | Path | None = None,
    checkpoint: int | None = None,
    task: Task | None = None,
    data_dir: str | None = None,
) -> Path:
    """Write a run's weights and buffers as a file that loads into the plain model.

    ``model.load_state_dict(safetensors.torch.load_file(path))`` takes it, strictly: it has every name of the model's
    ``state_dict()``, a tied weight under each of its names and frozen weights included. Tensors are contiguous; a
    model in channels_last takes them too. The file's metadata names recipe, rule, version, samples and the
    configuration's digest.

    Args:
        directory: of the run.
        output: where to write; by default the directory's name with ``.safetensors``, in the current directory.
        checkpoint: the version of a checkpoint to take instead of the final weights. None: the final weights, or of
            a run that has not ended its newest checkpoint.
        task: of a run whose task no name leads to. Without it, and where the task cannot be built, the file has
            trainable weights and buffers only, and says so in its metadata (``complete``: "no").
        data_dir: folder with data sets, which building a task may need; None: as the run had it.

    Returns:
        The path written.

    Raises:
        RunDirectoryError: there is no such run, nothing to export in it, or no such checkpoint.
        InvalidArgument: the given task's model is another one.
    """
    place = Path(directory)
    config = _config(place)
    # Nothing is computed here: whatever it was trained on, a CPU will do.
    here = config.replace(device="cpu", engine="simulated", data_dir=config.data_dir if data_dir is None else data_dir)
    ended = checkpoint is None and (place / "summary.json").is_file() and (place / _WEIGHTS).is_file()
    if ended:
        built = task or _built(here)
        named = safetensors.torch.load_file(place / _WEIGHTS)
        summary = json.loads((place / "summary.json").read_text())
        version, samples = summary["commits"], summary["samples"]
    else:
        built = task or blueprint_of(here).build_task()
        named, version, samples = _of_checkpoint(place, here, built, checkpoint)
    tensors = named if built is None else complete(built.make_model(config.seed), named)
    path = Path(output) if output is not None else Path(_name(place, None if ended else version))
    _write(path, tensors, _metadata(config, version, samples, complete=built is not None))
    return path


def complete(model: nn.Module, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's whole state with these weights and buffers in it: tied weights by each name, frozen ones too."""
    known = model.state_dict(keep_vars=True)
    alien = [name for name in named if name not in known]
    if alien:
        raise InvalidArgument(f"the task's model has no {', '.join(alien[:3])}: it is not the model of this run.")
    with torch.no_grad():
        for name, tensor in named.items():
            if known[name].shape != tensor.shape:
                ours, theirs = tuple(known[name].shape), tuple(tensor.shape)
                raise InvalidArgument(f"{name} has shape {ours} in the task's model and {theirs} in the run.")
            known[name].copy_(tensor)  # a tied weight changes under its other names too
    return model.state_dict()


def _built(config: RunConfig) -> Task | None:
    """The task, or None where no name leads to it or its data are not here: the weights are there all the same."""
    try:
        return blueprint_of(config).build_task()
    except TardigradError:
        return None


def _of_checkpoint(
    place: Path, config: RunConfig, task: Task, version: int | None
) -> tuple[dict[str, Tensor], int, int]:
    """Weights and buffers of a checkpoint, its version and samples."""
    found = read_checkpoint(place, version=version)
    if found is None:
        raise RunDirectoryError(f"{place} holds neither final weights nor a checkpoint: there is nothing to export.")
    server = assemble(config.replace(shards=1), task, make_rule(config.rule, optimizer=config.optimizer)).server
    server.load_state_dict(found.state["engine"]["server"])
    named = dict(zip(server.layout.names, server.weights(), strict=True)) | server.buffers.combined(server.live)
    return named, found.version, server.samples_applied


def _config(place: Path) -> RunConfig:
    try:
        return RunConfig.from_json(json.loads((place / "config.json").read_text()))
    except OSError:
        raise RunDirectoryError(f"{place} is not a run directory: it holds no config.json.") from None


def _name(place: Path, version: int | None) -> str:
    name = place.resolve().name
    return f"{name}.safetensors" if version is None else f"{name}-v{version}.safetensors"


def _metadata(config: RunConfig, version: int, samples: int, *, complete: bool) -> dict[str, str]:
    facts: dict[str, Any] = {
        "format": "pt",
        "recipe": config.recipe or config.task,
        "task": config.task,
        "rule": config.rule,
        "version": version,
        "samples": samples,
        "config": config.digest,
        "complete": "yes" if complete else "no: frozen weights and the other names of tied ones are left out",
        "tardigrad": __version__,
    }
    return {name: str(value) for name, value in facts.items()}


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write beside the place and rename."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(safetensors.torch.save(plain, metadata))
    os.replace(beside, path)


def print_export(path: Path) -> None:
    """Print what a file holds, and how to load it."""
    with safetensors.safe_open(path, framework="pt") as file:
        facts, number = file.metadata(), len(list(file.keys()))
    rule = facts["rule"].partition("(")[0]
    print(f"{path}: {number} tensors of version {int(facts['version']):,}, {int(facts['samples']):,} samples, {rule}")
    strict = "" if facts["complete"] == "yes" else ", strict=False"
    print(f"to load: model.load_state_dict(safetensors.torch.load_file({str(path)!r}){strict})")
