"""Which path a server takes, that it keeps to it, and that a run says which it was."""

import warnings

import pytest
import torch

import tardigrad
from tardigrad.commit.compiled import CompiledPath
from tardigrad.errors import CompileError, InvalidArgument, RunDirectoryError, Stopped
from tardigrad.leases import Leases
from tardigrad.logs import read_header

LARGE = 1_000_000
LARGER = [torch.zeros(LARGE)]


def a_server(weights, **keywords):
    return tardigrad.ParameterServer(weights, tardigrad.rule("asgd"), lr=0.1, **keywords)


def test_auto_compiles_large_models_only():
    assert a_server(LARGER).commits.path.name == "compiled"
    assert a_server([torch.zeros(LARGE - 1)]).commits.path.name == "exact"
    assert a_server(LARGER, commit_path="exact").commits.path.name == "exact"
    assert a_server([torch.zeros(3)], commit_path="compiled").commits.path.name == "compiled"


def test_auto_compiles_a_small_model_where_a_long_run_repays_it():
    for epochs, name in ((29, "exact"), (30, "compiled"), (None, "compiled")):
        leases = Leases(100, 1, epochs=epochs)
        server = a_server(LARGER, leases=leases)
        assert (leases.expected, server.commits.path.name) == (epochs and 100 * epochs, name)
        assert a_server([torch.zeros(LARGE // 10)], leases=leases).commits.path.name == "exact"
    assert a_server([torch.zeros(30_000)], leases=Leases(1000, 1, epochs=100)).commits.path.name == "compiled"


def test_auto_takes_the_exact_path_for_a_rule_that_is_not_elementwise():
    class Whole(tardigrad.Compensation):
        name = "whole"
        scope = "model"

        def compensate(self, g, w, backup, state, facts):
            return g, {}

    rule = tardigrad.rules.base.Rule(Whole(), tardigrad.rule("asgd").optimizer)
    assert tardigrad.ParameterServer(LARGER, rule, lr=0.1).commits.path.name == "exact"


def broken(self, **keywords):
    raise CompileError("asgd could not be compiled: no compiler.")


def test_without_a_compiler_auto_warns_once_and_is_exact(monkeypatch):
    monkeypatch.setattr(CompiledPath, "prepare", broken)
    server = a_server(LARGER)
    with pytest.warns(RuntimeWarning, match=r"commits take the exact path.*no compiler"):
        server.push(0, [torch.ones(LARGE)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        server.push(0, [torch.ones(LARGE)])
        server.push(0, [torch.ones(LARGE)])
    assert server.commits.path.name == "exact"
    assert server.weights()[0][0].item() == pytest.approx(-0.3)


def test_without_a_compiler_what_was_asked_for_is_refused(monkeypatch):
    monkeypatch.setattr(CompiledPath, "prepare", broken)
    server = a_server([torch.zeros(3)], commit_path="compiled")
    with pytest.raises(CompileError, match="no compiler"):
        server.push(0, [torch.ones(3)])


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_at_least_one(threads):
    with pytest.raises(InvalidArgument, match="commit_threads"):
        a_server(LARGER, commit_threads=threads)


def stop_after(pushes):
    left = iter(range(pushes))
    return lambda: next(left, None) is None


def test_a_run_that_goes_on_keeps_to_its_path_and_replays_on_it(tmp_path, needs_compiler):
    """With "auto" it would take the exact one for a model this small."""
    settings = {"workers": 3, "epochs": 1, "measure_every": 3, "directory": tmp_path / "run"}
    with pytest.raises(Stopped):
        tardigrad.train("quadratic", rule="dc-asgd-a", commit_path="compiled", stop=stop_after(9), **settings)
    run = tardigrad.resume(tmp_path / "run")
    assert run._server.commits.path.name == "compiled"
    header = read_header(tmp_path / "run")
    assert (header["commit_path"], header["commit_threads"]) == ("compiled", 1)
    assert header["compiler"]
    assert tardigrad.replay(tmp_path / "run").equal
    whole = tardigrad.train(
        "quadratic", rule="dc-asgd-a", commit_path="compiled", **settings | {"directory": tmp_path / "w"}
    )
    assert all(torch.equal(*pair) for pair in zip(run.weights(), whole.weights(), strict=True))


def test_a_stopped_run_does_not_go_on_by_another_path(tmp_path):
    settings = {"workers": 3, "epochs": 1, "directory": tmp_path / "run"}
    with pytest.raises(Stopped):
        tardigrad.train("quadratic", commit_path="exact", stop=stop_after(9), **settings)
    with pytest.raises(RunDirectoryError, match="commit_path='exact', not 'compiled'"):
        tardigrad.train("quadratic", commit_path="compiled", **settings)
