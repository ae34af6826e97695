"""Chaos: what a script may say, what a seed draws, and that both are the same every time."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardigrad.assembling import faults_of
from tardigrad.chaos import ACCEPTED, ENDING, describe, expected_pushes, fault_plan
from tardigrad.config import RunConfig
from tardigrad.errors import InvalidArgument
from tardigrad.faults import Fault
from tardigrad.lineup import lined_up

seeds = st.builds(lambda seed, server: f"{seed}+server" if server else str(seed), st.integers(0, 999), st.booleans())


def faults(text, workers=4, pushes=400):
    return fault_plan(text, workers=workers, pushes=pushes).faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill worker 2 at push 40", Fault("kill", at=40, worker=2, moment=0.5)),
        ("kill worker 2 at push 40 after 0.25 of a step", Fault("kill", at=40, worker=2, moment=0.25)),
        ("raise in worker 1 at push 5", Fault("raise", at=5, worker=1)),
        ("hang worker 0 at push 9", Fault("hang", at=9, worker=0)),
        ("pause worker 1 at push 3 for 3 s", Fault("pause", at=3, worker=1, seconds=3.0)),
        ("pause worker 1 at push 3 for 0.5s", Fault("pause", at=3, worker=1, seconds=0.5)),
        ("corrupt push 7 of worker 0", Fault("corrupt", at=7, worker=0)),
        ("cut worker 2 at push 5 for 20 s", Fault("cut", at=5, worker=2, seconds=20.0)),
        ("delay worker 1 by 50 ms", Fault("delay", at=1, worker=1, seconds=0.05)),
        ("delay worker 1 by 2.5ms from push 30", Fault("delay", at=30, worker=1, seconds=0.0025)),
        ("kill server at version 100", Fault("kill-server", at=100)),
        ("  KILL  Worker 2 at Push 40 ; ", Fault("kill", at=40, worker=2, moment=0.5)),
    ],
)
def test_a_sentence_is_a_fault(text, fault):
    assert faults(text) == (fault,)


def test_a_script_is_looked_up_by_worker_and_push():
    plan = fault_plan("corrupt push 7 of worker 0; pause worker 1 at push 3 for 1 s", workers=2, pushes=0)
    assert (plan.due(0, 7).kind, plan.due(1, 3).kind) == ("corrupt", "pause")
    assert (plan.due(0, 3), plan.due(1, 7), plan.due(0, 8)) == (None, None, None)
    assert not plan.server_dies(10**9, life=0)


def test_a_delay_lasts_from_its_push_on_until_another_one():
    words = "delay worker 1 by 40 ms from push 3; delay worker 1 by 10 ms from push 5; delay worker 0 by 7 ms"
    plan = fault_plan(words, workers=3, pushes=0)
    assert [plan.latency(1, number) for number in range(1, 7)] == [0.0, 0.0, 0.04, 0.04, 0.01, 0.01]
    assert [plan.latency(worker, 1) for worker in range(3)] == [0.007, 0.0, 0.0]
    assert (plan.due(1, 3).kind, plan.due(1, 4)) == ("delay", None)


@pytest.mark.parametrize("words", ["cut worker 0 at push 5 for 20 s", "delay worker 0 by 5 ms from push 2"])
def test_where_nothing_lies_between_server_and_workers_no_link_can_fail(words):
    with pytest.raises(InvalidArgument, match=f"'{words}': worker 0 is.*no link"):
        fault_plan(f"kill worker 0 at push 1; {words}", workers=2, pushes=0, unlinked=1)
    assert fault_plan(words.replace("worker 0", "worker 1"), workers=2, pushes=0, unlinked=1).faults
    assert fault_plan("7", workers=2, pushes=100, unlinked=2).faults


@pytest.mark.parametrize(
    ("where", "unlinked"),
    [
        ({"engine": "local"}, [0, 1, 2]),
        ({"engine": "joined", "own_workers": 1}, [0]),
        ({"engine": "ray", "own_workers": 2}, [0, 1]),
        ({"engine": "joined"}, []),
        ({"engine": "simulated", "own_workers": 2}, []),
    ],
)
def test_a_process_of_the_servers_machine_has_no_link(where, unlinked):
    found = []
    for worker in range(3):
        words = f"cut worker {worker} at push 5 for 20 s"
        try:
            faults_of(RunConfig(workers=3, chaos=words, **where), pushes=100)
        except InvalidArgument as error:
            found.append((worker, words in str(error)))
    assert found == [(worker, True) for worker in unlinked]


def test_a_scripts_own_worker_has_no_link_either():
    with pytest.raises(InvalidArgument, match="worker 0 is a process of the server's own machine"):
        lined_up({"engine": "joined", "own_workers": 1, "chaos": "delay worker 0 by 5 ms"}, name="mine")


def test_each_life_of_the_server_has_its_own_end():
    plan = fault_plan("kill server at version 30; kill server at version 10", workers=1, pushes=0)
    assert [plan.server_dies(version, life=0) for version in (9, 10, 11)] == [False, True, True]
    assert [plan.server_dies(version, life=1) for version in (10, 29, 30)] == [False, False, True]
    assert not plan.server_dies(10**9, life=2)


def test_nothing_asked_for_is_nothing():
    assert faults("") == faults(" ; ") == ()
    assert describe(fault_plan("", workers=1, pushes=10)) == ""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("kill worker two at push 3", "'kill worker two at push 3' is not understood"),
        ("kill worker 2", "not understood"),
        ("-3", "not understood"),
        ("7+", "not understood"),
        ("7; kill worker 0 at push 1", "'7' is not understood"),
        ("kill worker 0 at push 1 after 1.5 of a step", "not understood"),
        ("pause worker 0 at push 1 for -3 s", "not understood"),
        ("kill worker 4 at push 1", "4 workers, numbered from 0 to 3"),
        ("kill worker 0 at push 0", "counted from 1"),
        ("kill server at version 0", "counted from 1"),
        ("kill worker 0 at push 3; corrupt push 3 of worker 0", "2 faults at push 3 of worker 0"),
        ("kill server at version 3; kill server at version 3", "2 faults at version 3 of the server"),
    ],
)
def test_what_is_not_accepted_gets_a_sentence(text, sentence):
    with pytest.raises(InvalidArgument, match=sentence) as caught:
        faults(text)
    if "not understood" in sentence:
        assert all(accepted in str(caught.value) for accepted in ACCEPTED)


def test_every_sentence_that_is_named_as_accepted_is():
    assert {faults(sentence)[0].kind for sentence in ACCEPTED} == {
        "kill", "raise", "hang", "pause", "corrupt", "cut", "delay", "kill-server",
    }  # fmt: skip


@given(text=seeds, workers=st.integers(1, 32), pushes=st.integers(0, 10_000))
def test_a_seeds_plan_fits_the_run(text, workers, pushes):
    drawn = faults(text, workers, pushes)
    of_workers = [fault for fault in drawn if fault.kind != "kill-server"]
    assert 1 <= len(of_workers) <= max(1, pushes // 8)
    assert any(fault.kind == "kill" for fault in of_workers)
    assert all(0 <= fault.worker < workers and 1 <= fault.at <= max(1, pushes / workers) for fault in of_workers)
    assert len({(fault.worker, fault.at) for fault in drawn}) == len(drawn)
    assert max(Counter(fault.worker for fault in of_workers if fault.kind in ENDING).values()) <= 3
    assert all((fault.seconds > 0.0) == (fault.kind == "pause") for fault in drawn)
    assert all(0.0 <= fault.moment < 1.0 for fault in drawn)
    assert len(drawn) - len(of_workers) == text.endswith("server")
    assert all(1 <= fault.at <= max(1, pushes / workers) for fault in drawn)


@given(text=seeds, workers=st.integers(1, 8), pushes=st.integers(0, 1000))
def test_a_plan_is_the_same_every_time_and_its_description_asks_for_it(text, workers, pushes):
    plan = fault_plan(text, workers=workers, pushes=pushes)
    assert fault_plan(text, workers=workers, pushes=pushes).faults == plan.faults
    assert fault_plan(describe(plan), workers=workers, pushes=0).faults == plan.faults


def test_the_servers_end_changes_nothing_else():
    alone, both = faults("7"), faults("7+server")
    assert both[:-1] == alone
    assert (both[-1].kind, both[-1].worker) == ("kill-server", -1)


def test_seeds_differ_and_bring_about_every_kind():
    drawn = [faults(str(seed)) for seed in range(40)]
    assert len(set(drawn)) == 40
    kinds = Counter(fault.kind for plan in drawn for fault in plan)
    assert min(kinds[kind] for kind in ("kill", "raise", "pause", "corrupt")) >= 20
    assert 3 <= kinds["hang"] <= 20
    more = [faults(str(seed), workers=32, pushes=4000) for seed in range(40)]
    assert sum(map(len, more)) > 3 * sum(map(len, drawn))


@pytest.mark.parametrize(
    ("samples", "batch", "epochs", "pushes"),
    [(100, 10, 3, 30), (100, 30, 1, 4), (100, (5, 15), 2, 20), (100, 10, 0, 0)],
)
def test_pushes_expected(samples, batch, epochs, pushes):
    assert expected_pushes(samples, batch, epochs=epochs) == pushes
