"""The laws of a rule.

``check_rule`` takes any rule, of any scope, the built-in ones and a stranger's alike, through the commit paths
and the parameter server, and names the law that does not hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tardigrad.errors import InvalidArgument
from tardigrad.optimizers.sgd import SGD
from tardigrad.rules.base import Rule, make_rule
from tardigrad.server import ParameterServer
from tardigrad.specs import keywords_of, parse_spec
from tardigrad.testing.compiled import compiled_equals_exact
from tardigrad.testing.laws import keep, require
from tardigrad.testing.walks import (
    EVERY_TENSOR,
    Event,
    Walked,
    fresh_events,
    gradient,
    initial_weights,
    random_events,
    walk,
)
from tardigrad.testing.watched import watched

_DTYPES = (torch.float32, torch.float64)
_SCOPES = ("element", "tensor", "model")
_STALENESS = (0, 1, 3, 8)


def check_rule(rule: Rule | str | Callable[[], Rule], *, lr: float = 0.05, laws: Collection[str] | None = None) -> None:
    """Raise AssertionError, with a sentence, at the first law that the rule breaks.

    Args:
        rule: a rule, its spec, or a function that makes one.
        lr: learning rate of the walks and of the convergence law, which is a quadratic with curvatures from 0.25 to
            1 at a staleness of up to 8: plain SGD is stable there below about 0.18, with momentum below about
            0.18 (1 - momentum).
        laws: which to check, out of `RULE_LAWS`; all by default.
    """
    made = make_rule(rule) if isinstance(rule, str) else rule if isinstance(rule, Rule) else rule()
    keep(made.name, RULE_LAWS, laws, made, lr)


def _declares_what_it_needs(rule: Rule, lr: float) -> None:
    """Scopes, sharing, reads_backup and baseline are among the values the commit path knows."""
    compensation, optimizer = rule.compensation, rule.optimizer
    for part in (compensation, optimizer):
        require(part.scope in _SCOPES, f"scope {part.scope!r} is not one of {_SCOPES}.")
    require(isinstance(compensation.reads_backup, bool), "reads_backup must be True or False.")
    known = {"per_worker", "shared"}
    for name, how in compensation.state_spec().items():
        require(how in known, f"state_spec gives {name!r} as {how!r}; write PER_WORKER or SHARED.")
    try:
        make_rule(compensation.baseline)
    except InvalidArgument as error:
        raise AssertionError(f"baseline={compensation.baseline!r} cannot be made: {error}") from error


def _is_written_whole_in_its_spec(rule: Rule, lr: float) -> None:
    """The specs, which are all that a log keeps, name every keyword and build an equal rule."""
    for part, spec in ((rule.compensation, rule.spec), (rule.optimizer, rule.optimizer_spec)):
        require(dataclasses.is_dataclass(part), f"{type(part).__name__} must be a frozen dataclass.")
        missing = set(keywords_of(type(part))) - set(parse_spec(spec).kwargs)
        require(not missing, f"the spec {spec} leaves out {sorted(missing)}; make them fields of the dataclass.")
    try:
        again = make_rule(rule.spec, optimizer=rule.optimizer_spec)
    except InvalidArgument as error:
        raise AssertionError(f"{rule.spec} cannot be built again: {error} Register it under its own name.") from error
    require(again == rule, f"{rule.spec} builds a different rule, {again}.")


def _touches_only_its_results(rule: Rule, lr: float) -> None:
    """Inputs stay as they were; results have their dtype, shape, device; the state is the one declared; all finite."""
    for dtype in _DTYPES:
        for events in (random_events(30), fresh_events(10)):
            walk(watched(rule), events, dtype=dtype, lr=lr)


def _is_finite_at_zero(rule: Rule, lr: float) -> None:
    """Gradients of zero give finite weights, from the first push on, and do not move the gaps of the layout."""
    for dtype in _DTYPES:
        end = walk(watched(rule), random_events(30), dtype=dtype, lr=lr, scale=0.0)
        require(bool(torch.isfinite(end.weights).all()), "weights are not finite after gradients of zero.")
        packed = end.layout.pack(end.layout.views(end.weights))
        require(torch.equal(packed, end.weights), "the gaps between tensors, where all is zero, did not stay zero.")


def _is_a_function_of_its_arguments(rule: Rule, lr: float) -> None:
    """Two walks of one object are equal bit for bit: nothing is kept inside it, and nothing is drawn at random."""
    for dtype in _DTYPES:
        first, second = (walk(rule, random_events(30), dtype=dtype, lr=lr) for _ in range(2))
        _require_equal(first, second, "a second walk with the same object ends elsewhere; keep state in state_spec")


def _reads_only_what_it_declares(rule: Rule, lr: float) -> None:
    """Without reads_backup the backup, which is then the weights themselves, plays no part."""
    if rule.compensation.reads_backup:
        return
    seeing = walk(rule, random_events(30), dtype=torch.float64, lr=lr)
    blind = walk(rule, random_events(30), dtype=torch.float64, lr=lr, blind=True)
    _require_equal(seeing, blind, "compensate reads backup; declare reads_backup = True")


def _does_not_depend_on_chunks(rule: Rule, lr: float) -> None:
    """Cutting the buffer of an elementwise part into pieces changes no bit; of a rule with read passes, little."""
    for dtype, block in zip(_DTYPES, (64, 7), strict=True):
        whole = walk(rule, random_events(20), dtype=dtype, lr=lr)
        pieces = walk(rule, random_events(20), dtype=dtype, lr=lr, block=block)
        said = f"in pieces of {block} elements it ends elsewhere; its scope is not 'element'"
        if rule.compensation.read_passes:  # sums over other pieces are rounded otherwise
            near = torch.allclose(whole.weights, pieces.weights, rtol=1e3 * torch.finfo(dtype).eps)
            require(near, f"{said}, or measure does not give sums.")
        else:
            _require_equal(whole, pieces, said)


def _does_not_depend_on_neighbours(rule: Rule, lr: float) -> None:
    """A tensor's walk is the same with and without the others, unless a need of the whole vector is declared."""
    compensation = rule.compensation
    if "model" in (compensation.scope, rule.optimizer.scope) or compensation.read_passes or compensation.reads_place:
        return
    for dtype in _DTYPES:
        together = walk(rule, random_events(30), dtype=dtype, lr=lr)
        views = together.layout.views(together.weights)
        for number in EVERY_TENSOR:
            alone = walk(rule, random_events(30), dtype=dtype, lr=lr, tensors=[number])
            same = torch.equal(alone.layout.views(alone.weights)[0], views[number])
            require(
                same,
                f"tensor {number} ends elsewhere without the others; scope 'model'? reads_place?",
            )


def _equals_its_baseline_when_fresh(rule: Rule, lr: float) -> None:
    """At staleness 0 it equals its declared baseline bit for bit, at any learning rate and with momentum."""
    baseline = make_rule(rule.compensation.baseline).compensation
    for optimizer in (rule.optimizer, SGD(momentum=0.9, nesterov=True, weight_decay=0.01)):
        for rate, dtype in ((0.0, torch.float32), (lr, torch.float32), (lr, torch.float64), (1.5, torch.float64)):
            mine = _serve(Rule(rule.compensation, optimizer), fresh_events(12), dtype, rate)
            theirs = _serve(Rule(baseline, optimizer), fresh_events(12), dtype, rate)
            for version, (ours, plain) in enumerate(zip(mine, theirs, strict=True), 1):
                said = f"at staleness 0, lr {rate} and {dtype} version {version} differs from {baseline.name}'s."
                require(torch.equal(ours, plain), said)


def _continues_from_a_state(rule: Rule, lr: float) -> None:
    """A server restored from state_dict in mid-flight goes on bit for bit."""
    events = random_events(60)
    for dtype in _DTYPES:
        server, pushes = _server(rule, dtype, lr), _Pushes()
        pushes.play(server, events[:30])
        state, read, number = server.state_dict(), dict(pushes.read), pushes.number
        onward = pushes.play(server, events[30:])
        restored = _server(rule, dtype, lr)
        restored.load_state_dict(state)
        again = _Pushes(read, number).play(restored, events[30:])
        for ours, theirs in zip(onward, again, strict=True):
            require(torch.equal(ours, theirs), f"a restored server ({dtype}) goes elsewhere; keep state in state_spec.")


def _converges_at_every_staleness(rule: Rule, lr: float) -> None:
    """On a noisy quadratic 300 commits at least halve the excess loss, at each staleness from 0 to 8."""
    h = torch.logspace(-0.602, 0.0, 20, base=10.0, dtype=torch.float64).view(4, 5)
    noise = torch.Generator().manual_seed(0)
    for staleness in _STALENESS:
        server = ParameterServer([torch.ones_like(h)], rule, lr=lr, workers=staleness + 1)
        read = [server.pull(worker).weights[0] for worker in range(staleness + 1)]
        excess = []
        for commit in range(300):
            worker = commit % (staleness + 1)
            jitter = 0.01 * torch.randn(h.shape, generator=noise, dtype=h.dtype)
            server.push(worker, [h * read[worker] + jitter])
            read[worker] = server.pull(worker).weights[0]
            if commit >= 250:
                excess.append(float((h * read[worker] ** 2).sum() / h.sum()))
        late = sum(excess) / 50
        said = (
            f"at staleness {staleness} and lr {lr} a quadratic's excess loss went from 1 to {late:.3g} in 300 commits."
        )
        require(late < 0.5, said)


RULE_LAWS: dict[str, Callable[[Rule, float], None]] = {
    "declares what it needs": _declares_what_it_needs,
    "is written whole in its spec": _is_written_whole_in_its_spec,
    "touches only its results": _touches_only_its_results,
    "is finite at zero": _is_finite_at_zero,
    "is a function of its arguments": _is_a_function_of_its_arguments,
    "reads only what it declares": _reads_only_what_it_declares,
    "does not depend on chunks": _does_not_depend_on_chunks,
    "does not depend on neighbours": _does_not_depend_on_neighbours,
    "equals its baseline when fresh": _equals_its_baseline_when_fresh,
    "continues from a state": _continues_from_a_state,
    "converges at every staleness": _converges_at_every_staleness,
    "compiled equals exact": compiled_equals_exact,
}
"""The laws by name; each is a function (rule, lr) that raises AssertionError."""


class _Pushes:
    """What three workers hold while events are played against a server."""

    def __init__(self, read: dict[int, list[Tensor]] | None = None, number: int = 0) -> None:
        self.read = dict(read or {})
        self.number = number

    def play(self, server: ParameterServer, events: Sequence[Event]) -> list[Tensor]:
        """The flat weights after each commit."""
        weights = []
        for event in events:
            if event.action == "pull":
                self.read[event.worker] = server.pull(event.worker).weights
                continue
            read = self.read.get(event.worker) or initial_weights(server.layout.dtype)
            server.push(event.worker, gradient(read, self.number))
            self.number += 1
            weights.append(server.flat.clone())
        return weights


def _server(rule: Rule, dtype: torch.dtype, lr: float) -> ParameterServer:
    return ParameterServer(initial_weights(dtype), rule, lr=lr, workers=3)


def _serve(rule: Rule, events: Sequence[Event], dtype: torch.dtype, lr: float) -> list[Tensor]:
    """The flat weights after each commit of a new server."""
    return _Pushes().play(_server(rule, dtype, lr), events)


def _require_equal(one: Walked, other: Walked, sentence: str) -> None:
    """Weights and state of two walks are equal bit for bit."""
    same = torch.equal(one.weights, other.weights)
    pairs = zip(_tensors(one.state), _tensors(other.state), strict=True)
    require(same and all(torch.equal(ours, theirs) for ours, theirs in pairs), f"{sentence}.")


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors of a nested dictionary, in order."""
    if isinstance(state, Tensor):
        yield state
    else:
        for value in state.values():
            yield from _tensors(value)
