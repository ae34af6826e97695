"""Preparing: what a script gives to its session, checked, and turned into what the server is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, IterableDataset

from tardigrad.session import mistakes
from tardigrad.session.fingerprints import of_dataset, of_frozen, of_loader
from tardigrad.session.given import Given
from tardigrad.session.link import Group, Prepared, Schedule
from tardigrad.session.orders import Orders
from tardigrad.session.schedules import rows_needed, table, unit_of
from tardigrad.session.translating import stepped_groups, translate
from tardigrad.session.travelling import Travelling


@dataclass(frozen=True, slots=True)
class Plan:
    """A script's objects, ready to be served.

    Attributes:
        travelling: the parameters that the server steps.
        groups: as the server is to step them.
        served: which of the optimizer's groups these are; the others hold nothing that is trained.
        orders: of the loader's samples; None for a stream, and without a loader.
        batch_size: samples of a lease: of the batches that the processes of this worker compute together.
        schedule: of the learning rates; None: they stay.
    """

    travelling: Travelling
    groups: tuple[Group, ...]
    served: tuple[int, ...]
    orders: Orders | None
    batch_size: int
    schedule: Schedule | None


def planned(given: Given, device: torch.device, *, group: int = 1) -> Plan:
    """Check what was given.

    Args:
        given: to `Session.prepare`.
        device: where this worker computes.
        group: processes that compute a lease together; each of them a batch of the loader's size.

    Raises:
        SessionError: something that cannot be served; the sentence says what to write.
    """
    if isinstance(given.model, DistributedDataParallel | DataParallel):
        raise mistakes.parallel_already()
    names = {id(parameter): name for name, parameter in given.model.named_parameters()}
    named, groups = translate(given.optimizer, names)
    require_storable(named, device)
    travelling = Travelling(given.model, named, _frozen(given, names))
    loader = given.loader
    orders = Orders(loader, group=group) if loader is not None and not is_stream(loader) else None
    size = (loader.batch_size or 1) if loader is not None else 1
    served = tuple(place for place, _ in stepped_groups(given.optimizer))
    return Plan(travelling, groups, served, orders, size * group, _schedule(given, orders, size, served))


def prepared(given: Given, plan: Plan) -> Prepared:
    """What the server is told of a plan."""
    return Prepared(
        layout=plan.travelling.layout,
        groups=plan.groups,
        weights=[parameter.detach().cpu() for parameter in plan.travelling.parameters],
        buffers={name: buffer.detach().cpu() for name, buffer in plan.travelling.buffers.items()},
        samples=None if plan.orders is None else plan.orders.samples,
        batch_size=plan.batch_size,
        accumulate=given.accumulate,
        schedule=plan.schedule,
        alike=_alike(given, plan),
    )


def is_stream(loader: DataLoader[Any]) -> bool:
    """Whether nothing of it can be leased: each worker has its own."""
    return isinstance(loader.dataset, IterableDataset)


def _alike(given: Given, plan: Plan) -> dict[str, str]:
    """Digests of what must not differ between workers, by what a sentence calls it."""
    found = {"frozen parameters": of_frozen(given.model, plan.travelling.parameters)}
    if given.loader is None:
        return found
    if plan.orders is None:
        return found | {"a data set": of_dataset(given.loader.dataset)}
    return found | {"an order of samples": plan.orders.digest, "a data set": of_loader(given.loader, plan.orders)}


def _schedule(given: Given, orders: Orders | None, size: int, served: Sequence[int]) -> Schedule | None:
    if given.scheduler is None:
        return None
    if given.loader is None and given.place == "epoch":
        raise mistakes.no_epoch_without_a_loader()
    samples = None if orders is None else orders.samples
    unit = given.schedule
    if isinstance(unit, str):
        unit = unit_of(unit, samples=samples, batch_size=size, accumulate=given.accumulate)
    rows = rows_needed(given.place, samples=samples, unit=unit, epochs=given.epochs)
    rates = table(given.scheduler, given.optimizer, rows)
    return Schedule(unit, tuple(tuple(row[place] for place in served) for row in rates), samples)


def _frozen(given: Given, names: Mapping[int, str]) -> dict[str, nn.Parameter]:
    """The optimizer's parameters that are not trained, by name."""
    return {
        names.get(id(parameter), f"group{place}.{number}"): parameter
        for place, group in enumerate(given.optimizer.param_groups)
        for number, parameter in enumerate(group["params"])
        if not parameter.requires_grad
    }


def require_storable(named: Sequence[tuple[str, nn.Parameter]], device: torch.device) -> None:
    """Check that parameters can lie in one flat buffer, and where the worker computes.

    Raises:
        SessionError: they cannot; the sentence says why.
    """
    first = named[0][1]
    for name, parameter in named:
        if is_lazy(parameter) or parameter.is_meta:
            raise mistakes.not_made_yet(name)
        if parameter.dtype not in (torch.float32, torch.float64) or parameter.dtype != first.dtype:
            raise mistakes.not_storable(name, str(parameter.dtype))
    devices = sorted({str(parameter.device) for _, parameter in named})
    if len(devices) > 1:
        raise mistakes.several_devices(devices)
    if first.device != _with_index(device):
        raise mistakes.wrong_device(devices[0], str(device))


def _with_index(device: torch.device) -> torch.device:
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())
