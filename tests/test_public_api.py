"""The names that scripts of others rely on: which there are, where they come from, how they are called."""

import ast
import inspect
from pathlib import Path

import pytest
import torch

import tardigrad

# Adding a name is a decision, removing one breaks scripts: both are made here and in the changelog.
PUBLIC = {
    "Commit",
    "Compensation",
    "Held",
    "Lease",
    "ParameterServer",
    "Rejected",
    "Rule",
    "Run",
    "RunConfig",
    "ScriptRun",
    "Session",
    "SessionError",
    "Snapshot",
    "Task",
    "__version__",
    "export",
    "join",
    "register_rule",
    "replay",
    "resume",
    "rule",
    "run",
    "train",
}


def test_these_names_and_no_others():
    assert set(tardigrad.__all__) == PUBLIC
    assert set(dir(tardigrad)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_resolves_and_is_documented(name):
    value = getattr(tardigrad, name)
    if name != "__version__":
        assert inspect.getdoc(value)
        assert value.__module__.startswith("tardigrad.")


def test_no_submodule_takes_a_public_name():
    """Importing `tardigrad.x` binds the module to the name x of the package, in place of a function x."""
    package = Path(tardigrad.__file__).parent
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules & PUBLIC == set()


def test_type_checkers_see_what_is_loaded():
    """The imports under TYPE_CHECKING name the same homes as the lazy table."""
    module = ast.parse(Path(tardigrad.__file__).read_text())
    guarded = next(node for node in module.body if isinstance(node, ast.If))
    seen = {
        name.asname or name.name: f"{node.module}:{name.name}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == tardigrad._HOMES


def test_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(AttributeError, match=r"no attribute 'ParameterSever'.*'ParameterServer'"):
        tardigrad.ParameterSever  # noqa: B018
    with pytest.raises(ImportError):
        from tardigrad import nothing_of_this_name  # noqa: F401


@pytest.mark.parametrize(
    ("name", "args", "keywords"),
    [
        ("rule", ("dc-asgd-a",), {"lambda0": 2.0, "mean_square_decay": 0.95, "momentum": 0.0}),
        ("ParameterServer", ([], None), {"lr": 0.1, "workers": 3, "consistency": "asynchronous"}),
        ("join", ("10.0.0.2:7070",), {"secret": "s", "workers": 2, "device": "cuda", "script": "train.py"}),
        ("train", ("digits",), {"rule": "dc-asgd-a", "workers": 16, "engine": "simulated", "seed": 0}),
    ],
    ids=["rule", "ParameterServer", "join", "train"],
)
def test_calls_keep_their_form(name, args, keywords):
    inspect.signature(getattr(tardigrad, name)).bind(*args, **keywords)


def test_consistency_is_asynchronous_unless_said():
    assert inspect.signature(tardigrad.ParameterServer).parameters["consistency"].default == "asynchronous"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_session_with_the_server(dtype):
    w1, w2 = torch.ones(2, 3, dtype=dtype), torch.zeros(4, dtype=dtype)
    rule = tardigrad.rule(
        "dc-asgd-a",
        lambda0=2.0,
        mean_square_decay=0.95,
        eps=1e-7,
        clip_compensation=None,
        damped=False,
        shared=False,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
    )
    server = tardigrad.ParameterServer([w1, w2], rule, lr=0.1, workers=3)
    snap = server.pull(0)
    assert snap.version == 0
    assert [(w.shape, w.dtype) for w in snap.weights] == [(w1.shape, dtype), (w2.shape, dtype)]

    commit = server.push(0, [torch.ones_like(w1), torch.ones_like(w2)])
    assert (commit.accepted, commit.version, commit.worker, commit.staleness) == (True, 1, 0, 0)
    torch.testing.assert_close(server.weights()[0], w1 - 0.1)
    torch.testing.assert_close(w1, torch.ones_like(w1), msg="the server works on a copy of what it is given")

    server.weights()[0].zero_()
    assert server.weights()[0].abs().sum() > 0, "weights() hands out a copy"


@pytest.mark.parametrize(
    ("name", "keyword"), [("asgd", "lambda0"), ("dc-asgd-c", "mean_square_decay"), ("dc-asgd-a", "lamda0")]
)
def test_a_rule_takes_its_own_keywords_only(name, keyword):
    with pytest.raises(ValueError, match=f"has no keyword '{keyword}'"):
        tardigrad.rule(name, **{keyword: 0.5})
