"""Workers that are groups of processes: synchronous inside, asynchronous between."""

import multiprocessing
import re

import group_scripts as scripts
import plain_parallel
import pytest
import torch
from torch.testing import assert_close

import tardigrad
from tardigrad.audit import audit
from tardigrad.engines.local.nursery import context, prepare_for_scripts
from tardigrad.errors import InvalidArgument, WorkerFailed
from tardigrad.logs import read_events


def a_run(script, place, *, args=(), **settings):
    usual = {"workers": 1, "group": 2, "threads": 1, "rule": "asgd"}
    run = tardigrad.run(script, args=args, directory=place, **(usual | settings))
    assert multiprocessing.active_children() == []
    return run


def events(place, kind):
    return [event for event in read_events(place) if event[0] == kind]


@pytest.mark.parametrize(
    ("samples", "accumulate", "by_hand"),
    [(33, 1, 1), (27, 3, 1), (27, 1, 2)],
    ids=["a last lease of one sample", "accumulate", "accumulated by not stepping"],
)
def test_a_group_computes_what_one_process_computes_on_the_whole_batch(samples, accumulate, by_hand, tmp_path):
    """To 1e-12 in float64: the same sums in another order. The layer without gradients is not even decayed."""
    args = (samples, accumulate, by_hand)
    plain = tardigrad.run(scripts.clipped, args=args, engine=None).state_dict()
    served = a_run(scripts.clipped, tmp_path / "run", args=args).state_dict()
    assert served.keys() == plain.keys()
    for name, tensor in plain.items():
        assert_close(served[name], tensor, rtol=1e-12, atol=1e-12)
    assert audit(tmp_path / "run").applied == 2 * samples


def test_a_group_is_bitwise_distributed_data_parallel(tmp_path):
    """With BatchNorm: its statistics are of each process's own batch, and the leader's are kept."""
    prepare_for_scripts()
    meeting, found = str(tmp_path / "store"), str(tmp_path / "weights")
    processes = [
        context().Process(target=plain_parallel.normalized, args=(rank, 2, 64, meeting, found)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    run = a_run(scripts.normalized, tmp_path / "run", args=(64,))
    for process in processes:
        process.join()
    plain, served = torch.load(found), run.state_dict()
    assert served.keys() == plain.keys()
    assert [name for name in plain if not torch.equal(plain[name], served[name])] == []
    assert len(run.evaluations) == 2
    assert [event[4] for event in events(tmp_path / "run", "log")] == [{"first": 1.0, "rank": 0.0}] * 2


def test_whichever_process_dies_its_worker_begins_anew_and_the_run_replays(tmp_path):
    """Also with a loader that fetches ahead, and with random numbers of each process's own."""
    deaths = [[0, 1, 2], [1, 0, 3]]
    run = a_run(scripts.dying, tmp_path / "run", args=(160, deaths), workers=2, rule="dc-asgd")
    assert run.summary["failures"] == {"died": 2}
    assert {event[-2] for event in events(tmp_path / "run", "fail")} == {-9}
    found = audit(tmp_path / "run")
    assert found.ok, found.verdict
    assert (found.applied, found.lost, found.restarts) == (320, 0, 2)
    replayed = tardigrad.replay(tmp_path / "run")
    assert replayed.equal, replayed.verdict
    assert replayed.commits == found.commits


@pytest.mark.parametrize("ranks", [[0], [1], [0, 1]])
def test_what_processes_raise_is_told_and_their_worker_begins_anew(ranks, tmp_path):
    """Whichever ends first; what was fetched ahead comes back either way."""
    run = a_run(scripts.raising, tmp_path / "run", args=(ranks,))
    assert run.summary["failures"] == {"raised": 1}
    words = events(tmp_path / "run", "fail")[0][-1]
    assert re.match(rf"process [{''.join(map(str, ranks))}] of 2:\n", words)
    assert "a mistake of the user's" in words
    assert audit(tmp_path / "run").applied == 64
    assert tardigrad.replay(tmp_path / "run").equal


def test_gradients_of_one_process_alone_are_refused(tmp_path):
    with pytest.raises(WorkerFailed, match=r"the model that session\.prepare returned"):
        a_run(scripts.unwrapped, tmp_path / "run", on_failure="raise")


def test_a_stream_of_a_group_ends_with_the_first_of_its_processes(tmp_path):
    """Streams of 22 and 14 samples: three batches of 4 in both, then 4 beside 2."""
    run = a_run(scripts.streaming, tmp_path / "run")
    assert run.summary["samples"] == 3 * 8 + 6


def test_a_run_goes_on_with_the_groups_it_began_with(tmp_path):
    from tardigrad.errors import Stopped

    with pytest.raises(Stopped):
        a_run(scripts.clipped, tmp_path / "run", args=(64, 1, 1), stop=lambda: True)
    with pytest.raises(InvalidArgument, match="group=2, not 1"):
        a_run(scripts.clipped, tmp_path / "run", args=(64, 1, 1), group=1)
