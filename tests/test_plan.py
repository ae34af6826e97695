"""`--dry-run`: what is said before anything is run."""

import pytest
import torch

from tardigrad import plan
from tardigrad.blueprint import Blueprint
from tardigrad.config import RunConfig
from tardigrad.consistency import build_consistency
from tardigrad.data.unread import is_unread
from tardigrad.errors import InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.plan import Subject, memory_needed, print_plan, streams_of, traffic_of
from tardigrad.rules.base import make_rule
from tardigrad.server import ParameterServer
from tardigrad.tasks.quadratic import quadratic

SMALL = RunConfig(task="quadratic(dimension=1000, samples=64)", workers=4, commit_path="exact", service=0.001)


@pytest.mark.parametrize(
    ("rule", "optimizer", "streams"),
    [
        ("asgd", "sgd", 4),
        ("asgd", "sgd(momentum=0.9)", 6),
        ("dc-asgd-c", "sgd", 5),
        ("dc-asgd-a", "sgd", 7),
        ("dc-asgd", "sgd(momentum=0.9)", 9),
        ("clipping(max_norm=1.0)", "sgd", 5),
    ],
)
def test_streams_of_an_exchange(rule, optimizer, streams):
    assert streams_of(make_rule(rule, optimizer=optimizer)) == streams


def test_traffic_is_the_configurations():
    config = SMALL.replace(bandwidth=1e6, latency=0.5, delay="constant(2.0)", speeds=(1.0, 1.0, 2.0, 4.0))
    traffic, source = traffic_of(Subject.of(config))
    assert (traffic.size, traffic.link, traffic.latency, traffic.tied) == (4000, 1e6, 0.5, False)
    assert traffic.steps == [2.0, 2.0, 1.0, 0.5]
    assert (traffic.commit, source) == (0.001, "the run's --service")


def test_what_is_asked_on_the_command_line_comes_before_the_configuration():
    config = SMALL.replace(bandwidth=1e6, delay="constant(2.0)", consistency="ssp(2)")
    traffic, _ = traffic_of(Subject.of(config), link="8Mbit/s", step_seconds=0.25)
    assert (traffic.link, traffic.steps, traffic.tied) == (1e6, [0.25] * 4, True)
    with pytest.raises(InvalidArgument, match="step_seconds=0 is not a number in"):
        traffic_of(Subject.of(config), step_seconds=0)


def test_stragglers_lengthen_the_mean():
    config = SMALL.replace(delay="constant(1.0)", straggler_probability=0.1, straggler_factor=11.0)
    assert traffic_of(Subject.of(config))[0].steps == pytest.approx([2.0] * 4)


def test_random_delays_are_told_by_their_means():
    config = SMALL.replace(delay="gamma(mean=3.0, machine_cv=0.0, task_cv=0.1)", workers=70)
    steps = traffic_of(Subject.of(config))[0].steps
    assert len(steps) == 70
    assert steps == pytest.approx([3.0] * 70, rel=0.05)


@pytest.mark.parametrize("consistency", ["synchronous", "synchronous(wait_for=2)"])
def test_those_who_wait_for_each_other_are_tied(consistency):
    assert traffic_of(Subject.of(SMALL.replace(consistency=consistency)))[0].tied


def test_how_long_a_real_worker_takes_has_to_be_said():
    subject = Subject.of(SMALL.replace(engine="local"))
    with pytest.raises(InvalidArgument, match=r"add --step-seconds 0\.5"):
        traffic_of(subject)
    assert traffic_of(subject, step_seconds=0.5)[0].wanted == 8.0


@pytest.mark.parametrize(("path", "says"), [("exact", "exact: timed here"), ("compiled", "compiled: 7 streams")])
def test_where_the_time_of_a_commit_is_from(path, says):
    config = SMALL.replace(service=0.0, commit_path=path, rule="dc-asgd-a", workers=2)
    traffic, source = traffic_of(Subject.of(config))
    assert 0.0 < traffic.commit < 60.0
    assert source.startswith(says)


def test_a_commit_with_a_window_is_timed_on_a_part_and_with_the_runs_workers(monkeypatch):
    """25.6 M weights and 50 workers: 41 GB of gradients, of which none but a part is made."""
    made = []

    class Server(ParameterServer):
        def __init__(self, weights, rule, **settings):
            super().__init__(weights, rule, **settings)
            made.append(self)

    monkeypatch.setattr(plan, "ParameterServer", Server)
    monkeypatch.setattr(plan, "_WINDOW_SAMPLE", 2**22)
    rule, wide = make_rule("dc-lowrank"), FlatLayout.of([torch.empty(25_557_032, device="meta")])
    config = SMALL.replace(service=0.0, rule="dc-lowrank", workers=50, commit_path="auto", commit_threads=1)
    traffic, source = traffic_of(Subject(config, rule, build_consistency("asynchronous"), wide, {}, 10**6))
    windows = [server.commits.path.state.window for server in made]
    assert [len(window.ages) for window in windows] == [400, 400]
    part = 2**22 // 1600
    assert windows[1].bytes_held() == rule.compensation.window_plan.bytes_for(50, FlatLayout.of([torch.empty(part)]))
    assert (windows[1].state_dict()["rows"].abs().sum(1) > 0.0).all(), "an unwritten row is read from no memory"
    assert source.startswith("exact: timed here")
    assert 1e-3 < traffic.commit < 600.0


def test_what_is_said_of_a_faster_commit_can_be_typed(capsys):
    config = SMALL.replace(service=0.0, commit_path="auto", workers=2)
    for rule, compiled, window in (("dc-asgd-a", True, False), ("dc-lowrank(window=4)", False, True)):
        print_plan([config.replace(rule=rule)], step_seconds=1e-7)
        shown = capsys.readouterr().out
        assert ("a faster commit: --commit-path compiled; --commit-threads 2" in shown) == compiled
        assert ("a faster commit: fewer gradients in the rule's window; --commit-threads 2" in shown) == window


def test_a_plan_says_traffic_where_there_is_a_link(capsys):
    print_plan([SMALL])
    assert "exchanges a second" not in capsys.readouterr().out
    print_plan([SMALL.replace(bandwidth=1e6)])
    shown = capsys.readouterr().out
    assert "an exchange: 0.008 MB (gradient up, weights down), 0.008 s at 8 Mbit/s" in shown
    assert "To simulate them on this link: --bandwidth 1e+06 --service 0.004" in shown
    print_plan([SMALL], link="8Mbit/s", step_seconds=1e-4)
    shown = capsys.readouterr().out
    assert "What helps:\n  larger batches: " in shown
    print_plan([SMALL.replace(engine="local")], step_seconds=0.5)
    shown = capsys.readouterr().out
    assert "the server keeps up." in shown
    assert "link" not in shown.rsplit("exchanges a second", 1)[1]
    assert "down slots" in shown


def test_of_several_runs_the_largest(capsys):
    runs = [SMALL.replace(workers=count) for count in (2, 8, 4)]
    print_plan(runs)
    shown = capsys.readouterr().out
    assert "3 runs" in shown
    assert "memory of the largest run" in shown
    assert "8 copies: one for each version" in shown


def test_nothing_wrong_is_printed_before_the_sentence(capsys):
    with pytest.raises(InvalidArgument, match="is not the speed of a link"):
        print_plan([SMALL], link="fast")
    assert capsys.readouterr().out == ""


def test_a_task_that_computes_with_its_data_is_built_with_it(monkeypatch):
    built = []

    def looks_at_its_data(blueprint):
        built.append(is_unread())
        if is_unread():
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        return quadratic(dimension=500, samples=8)

    monkeypatch.setattr(Blueprint, "build_task", looks_at_its_data)
    assert memory_needed(Subject.of(SMALL)).copy == 2000
    assert built == [True, False]
