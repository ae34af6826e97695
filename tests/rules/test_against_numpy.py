"""Every rule agrees to 1e-12, in float64, with a second implementation written from the paper's equations."""

import numpy as np
import pytest
import torch
from numpy_twin import Twin

import tardigrad
from tardigrad.rules import COMPENSATIONS
from tardigrad.specs import parse_spec

SIZES = ((5, 3), (7,), ())
COUNT = sum(int(np.prod(size)) for size in SIZES)

# (rule, its keywords, the twin's keywords)
RULES = [
    ("asgd", {}, {}),
    ("staleness-lr", {}, {"power": 1.0}),
    ("staleness-lr", {"power": 0.5}, {"power": 0.5}),
    ("dc-asgd-c", {}, {"lambda0": 0.04}),
    ("dc-asgd-c", {"lambda0": 1.5}, {"lambda0": 1.5}),
    ("dc-asgd-c", {"lambda0": 1.5, "damped": True}, {"lambda0": 1.5, "damped": True}),
    ("dc-asgd-c", {"lambda0": 1.5, "clip_compensation": 0.1}, {"lambda0": 1.5, "clip": 0.1}),
    ("dc-asgd-a", {}, {"lambda0": 2.0, "m": 0.95}),
    ("dc-asgd-a", {"mean_square_decay": 0.0}, {"lambda0": 2.0, "m": 0.0}),
    ("dc-asgd-a", {"shared": True, "eps": 1e-3}, {"lambda0": 2.0, "m": 0.95, "shared": True, "eps": 1e-3}),
    ("dc-asgd-a", {"lambda0": 8.0, "damped": True}, {"lambda0": 8.0, "m": 0.95, "damped": True}),
    ("dc-asgd-a", {"clip_compensation": 0.05}, {"lambda0": 2.0, "m": 0.95, "clip": 0.05}),
    (
        "dc-asgd-a",
        {"clip_compensation": 0.05, "damped": True, "mean_square_decay": 0.5},
        {"lambda0": 2.0, "m": 0.5, "clip": 0.05, "damped": True},
    ),
    ("dc-asgd", {}, {"lambda0": 8.0, "m": 0.95, "damped": True}),
    ("dc-lowrank", {}, {}),
    ("clipping", {"max_norm": 4.5}, {"max_norm": 4.5}),
]
CONTROLS = ["sign-flipped", "sign-random", "its-length", "its-direction"]
# (what is wrapped, the twin's keywords); as written, sign-flipped needs a small lambda0 to stay where numbers are small
WRAPPED = [
    ("dc-asgd-a(lambda0=0.5)", {"of": "dc-asgd-a", "lambda0": 0.5, "m": 0.95}),
    ("dc-asgd-a(lambda0=0.5, shared=True)", {"of": "dc-asgd-a", "lambda0": 0.5, "m": 0.95, "shared": True}),
    ("dc-asgd-c(lambda0=0.2)", {"of": "dc-asgd-c", "lambda0": 0.2}),
    ("staleness-lr", {"of": "staleness-lr", "power": 1.0}),
]
RULES += [(name, {"of": of}, twin) for name in CONTROLS for of, twin in WRAPPED]
OPTIMIZERS = [
    {},
    {"weight_decay": 0.02},
    {"momentum": 0.8, "dampening": 0.3},
    {"momentum": 0.8, "nesterov": True, "weight_decay": 0.02},
    {"optimizer": "adam(beta1=0.8, beta2=0.95, eps=1e-4, weight_decay=0.02)"},
    {"optimizer": "adamw(beta1=0.8, beta2=0.9, eps=1e-4, weight_decay=0.02, amsgrad=True)"},
]


def shaped(vector):
    """One vector as tensors of SIZES."""
    parts = np.split(vector, np.cumsum([int(np.prod(size)) for size in SIZES])[:-1])
    return [torch.from_numpy(part.copy()).reshape(size) for part, size in zip(parts, SIZES, strict=True)]


def coins(layout, version):
    """The coin of each coordinate, from a hash of its place in the flat buffer, the gaps included."""
    places = [offset + np.arange(np.prod(size, dtype=int)) for offset, size in zip(layout.offsets, SIZES, strict=True)]
    key = hashed(version + hashed(0))
    return np.array([hashed(int(place) * 0x1E3779B1 + key) & 1 for place in np.concatenate(places)]) == 1


def hashed(x):
    """The hash in Python's whole numbers, modulo 2^32."""
    x = (x ^ (x % 2**32) >> 16) * 0x21F0AAAD % 2**32
    x = (x ^ x >> 15) * 0x735A2D97 % 2**32
    return x ^ x >> 15


def script(length=80):
    """Events of three workers: the first pushes before any pull, two pushes on one pull happen often."""
    draw = np.random.default_rng(7)
    pushes = [(0, True), (1, False), (1, True), (1, True)]
    while sum(push for _, push in pushes) < length:
        pushes.append((int(draw.integers(3)), bool(draw.random() < 0.55)))
    return pushes


def told(optimizer):
    """The keywords as the twin knows them."""
    if "optimizer" not in optimizer:
        return optimizer
    spec = parse_spec(optimizer["optimizer"])
    return {"adam": {"amsgrad": False, **spec.kwargs, "decoupled": spec.name == "adamw"}}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize(("name", "keywords", "twin_keywords"), RULES, ids=[f"{r[0]} {r[1]}" for r in RULES])
def test_80_pushes_of_3_workers_agree(name, keywords, twin_keywords, optimizer):
    draw = np.random.default_rng(0)
    w0, h = draw.normal(size=COUNT), draw.uniform(0.2, 1.0, size=COUNT)
    lr = 0.03
    twin = Twin(w0, name, lr=lr, **twin_keywords)
    vars(twin).update(told(optimizer))
    server = tardigrad.ParameterServer(shaped(w0), tardigrad.rule(name, **keywords, **optimizer), lr=lr, workers=3)
    twin.kept = lambda version: coins(server.layout, version)
    seen = set()
    for worker, push in script():
        if not push:
            twin.pull(worker)
            server.pull(worker)
            continue
        g = h * twin.backup.get(worker, w0) + draw.normal(size=COUNT)
        commit = server.push(worker, shaped(g))
        assert commit.staleness == twin.push(worker, g)
        seen.add(commit.staleness)
        here = torch.cat([w.flatten() for w in server.weights()]).numpy()
        np.testing.assert_allclose(here, twin.w, rtol=1e-12, atol=1e-12)
    assert server.version == 80
    assert {0, 1, 2, 3} <= seen, "the script must meet several kinds of staleness"


def test_every_rule_has_a_twin():
    assert {name for name, _, _ in RULES} >= set(COMPENSATIONS._builtin)
