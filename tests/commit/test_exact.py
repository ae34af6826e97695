"""The exact path: order inside a commit, scopes, sums over contributions, what is measured, groups."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch

import tardigrad
from tardigrad.commit.base import Part
from tardigrad.commit.exact import ExactPath
from tardigrad.layout import FlatLayout
from tardigrad.records import Facts
from tardigrad.rules.base import Rule
from tardigrad.scopes import PER_WORKER, SHARED

WEIGHTS = [torch.full((3,), 2.0, dtype=torch.float64), torch.full((2, 2), 4.0, dtype=torch.float64)]


@dataclass(frozen=True)
class Notes(tardigrad.Compensation):
    """Notes what it is handed, and counts the calls in a state of each kind."""

    name = "notes"
    scope = "element"
    reads_backup = True
    seen: tuple = ()

    def __post_init__(self):
        object.__setattr__(self, "calls", [])

    def state_spec(self):
        return {"own": PER_WORKER, "all": SHARED}

    def compensate(self, g, w, backup, state, facts):
        self.calls.append((tuple(g.shape), facts, {name: tensor.max().item() for name, tensor in state.items()}))
        return g * 2.0, {name: tensor + 1.0 for name, tensor in state.items()}


class TensorNotes(Notes):
    """The same, seeing tensors."""

    scope = "tensor"


class ModelNotes(Notes):
    """The same, seeing the whole vector and its measurements."""

    scope = "model"


def facts(staleness=1, version=1):
    return Facts(staleness=staleness, lr=0.5, version=version, live=2, step=version)


def a_path(compensation, block=65536):
    layout = FlatLayout.of(WEIGHTS)
    path = ExactPath(Rule(compensation, tardigrad.rule("asgd").optimizer), layout, block=block)
    return layout, layout.pack(WEIGHTS), path


def apply(layout, weights, path, *gradients, **keywords):
    packed = [layout.pack([torch.full_like(w, value) for w in WEIGHTS]) for value in gradients]
    parts = [Part(worker, g, weights.clone(), facts(), 1 / len(packed)) for worker, g in enumerate(packed)]
    return path.apply(weights, parts, **keywords)


@pytest.mark.parametrize(
    ("kind", "block", "shapes"),
    [
        (Notes, 65536, [(12,)]),
        (Notes, 5, [(5,), (5,), (2,)]),
        (TensorNotes, 5, [(3,), (2, 2)]),
        (ModelNotes, 5, [(12,)]),
    ],
)
def test_a_scope_sees_blocks_tensors_or_the_whole_vector(kind, block, shapes):
    compensation = kind()
    layout, weights, path = a_path(compensation, block)
    apply(layout, weights, path, 1.0)
    assert [shape for shape, _, _ in compensation.calls] == shapes
    for view, start in zip(layout.views(weights), (2.0, 4.0), strict=True):
        assert torch.equal(view, torch.full_like(view, start - 0.5 * 2.0))


@pytest.mark.parametrize("kind", [Notes, TensorNotes, ModelNotes])
def test_gaps_stay_zero_in_every_scope(kind):
    layout, weights, path = a_path(kind())
    torch.use_deterministic_algorithms(True)  # new memory is then filled with NaN, not with what happens to be there
    try:
        apply(layout, weights, path, 1.0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(layout.pack(layout.views(weights)), weights)


class Measures(Notes):
    """Two read passes: the second measures against what the first made known."""

    read_passes = 2

    def measure(self, g, w, backup, state, facts):
        return {"total": (g - facts.measured.get("mean", 0.0)).double().sum()}

    def conclude(self, sums, facts):
        return {("mean", "rest")[facts.read_pass]: sums["total"] / 7.0}


@pytest.mark.parametrize("scope", ["element", "tensor", "model"])
@pytest.mark.parametrize("block", [5, 65536])
def test_numbers_over_the_whole_vector_are_there_before_anything_is_compensated(scope, block):
    kind = type("Kind", (Measures,), {"scope": scope})
    compensation = kind()
    layout, weights, path = a_path(compensation, block)
    apply(layout, weights, path, 3.0)  # seven elements of 3 and, but for tensors, five of 0 in the gap
    pieces = len(compensation.calls)
    assert pieces == {"element": 3 if block == 5 else 1, "tensor": 2, "model": 1}[scope]
    gap = 0.0 if scope == "tensor" else -5.0 * 3.0 / 7.0
    expected = {"mean": pytest.approx(3.0), "rest": pytest.approx(gap)}
    assert [facts.measured for _, facts, _ in compensation.calls] == [expected] * pieces


def test_contributions_are_summed_by_weight_each_with_its_own_state():
    compensation = Notes()
    layout, weights, path = a_path(compensation)
    apply(layout, weights, path, 1.0, 5.0)
    assert layout.views(weights)[0][0].item() == 2.0 - 0.5 * 2.0 * 3.0
    assert [held for _, _, held in compensation.calls] == [{"own": 0.0, "all": 0.0}, {"own": 0.0, "all": 1.0}]
    apply(layout, weights, path, 1.0, 5.0)
    assert [held for _, _, held in compensation.calls[2:]] == [{"own": 1.0, "all": 2.0}, {"own": 1.0, "all": 3.0}]


@pytest.mark.parametrize("kind", [Notes, TensorNotes, ModelNotes])
@pytest.mark.parametrize("block", [5, 65536])
def test_the_compensation_is_measured_against_the_gradient(kind, block):
    layout, weights, path = a_path(kind(), block)
    assert apply(layout, weights, path, 3.0, measure=True) == pytest.approx(1.0)
    assert apply(layout, weights, path, 3.0) is None
    assert apply(layout, weights, path, 0.0, measure=True) == 0.0


def test_the_ratio_is_measured_every_so_many_commits():
    rule = tardigrad.rule("dc-asgd-c", lambda0=0.5)
    server = tardigrad.ParameterServer([torch.ones(4).double()], rule, lr=1.0, workers=2, measure_every=3)
    ratios = [server.push(0, [torch.ones(4).double()]).compensation_ratio for _ in range(5)]
    # w is 1, 0, -0.5, -0.75: the fourth gradient is 1 + 0.5 * (-0.75 - 1)
    assert ratios == [0.0, None, None, pytest.approx(0.875), None]


def test_weight_decay_comes_after_the_compensation_and_does_not_enter_it():
    rule = tardigrad.rule("dc-asgd-c", lambda0=1.0, weight_decay=0.5, momentum=0.5)
    server = tardigrad.ParameterServer([torch.full((1,), 4.0).double()], rule, lr=0.5, workers=2)
    server.push(0, [torch.ones(1).double()])
    v = 1.0 + 0.5 * 4.0
    w = 4.0 - 0.5 * v
    assert server.weights()[0].item() == w
    server.push(1, [torch.full((1,), 2.0).double()])
    v = 0.5 * v + (2.0 + 2.0 * 2.0 * (w - 4.0)) + 0.5 * w
    assert server.weights()[0].item() == w - 0.5 * v


def test_state_is_made_for_workers_that_push_and_survives_a_round_trip():
    layout, weights, path = a_path(Notes())
    assert path.state_bytes() == 12 * 8
    apply(layout, weights, path, 1.0, 5.0)
    assert path.state_bytes() == 3 * 12 * 8
    compensation = Notes()
    _, _, restored = a_path(compensation)
    restored.load_state_dict(path.state_dict())
    apply(layout, weights, restored, 1.0)
    assert compensation.calls[0][2] == {"own": 1.0, "all": 2.0}


@pytest.mark.parametrize(("device", "pieces"), [("cpu", 4), ("cuda", 1)])
def test_a_piece_fits_a_cores_cache_and_on_cuda_is_all(device, pieces):
    class Stateless(Notes):
        def state_spec(self):
            return {}

        def compensate(self, g, w, backup, state, facts):
            return super().compensate(g, w, backup, {}, facts)

    compensation, flat = Stateless(), torch.ones(200_000)
    layout = dataclasses.replace(FlatLayout.of([flat]), device=torch.device(device))  # nothing is made on it
    path = ExactPath(Rule(compensation, tardigrad.rule("asgd").optimizer), layout)
    path.apply(flat, [Part(0, torch.ones(200_000), flat.clone(), facts())])
    assert len(compensation.calls) == pieces
    assert sum(shape[0] for shape, *_ in compensation.calls) == 200_000
    assert flat.max().item() == flat.min().item() == 0.0
