"""Recorded delays: replayed in order and over again, from three sources; broken files get a sentence each."""

import json

import pytest
from delay_examples import RECORDING

import tardigrad
from tardigrad.delays import build_delay
from tardigrad.errors import InvalidArgument
from tardigrad.seeding import random_stream


def replayed(delay, worker, count, seed=0):
    one = delay.draws_of(worker, random_stream(seed, "delay", worker))
    return [one() for _ in range(count)]


@pytest.fixture
def trace(tmp_path):
    """A trace of a text."""

    def made(text, name="recording", **keywords):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return build_delay(tardigrad.specs.format_spec("trace", {"path": str(file), **keywords}))

    return made


JSON_LINES = "".join(
    json.dumps({"worker": int(worker), "seconds": float(seconds), "host": "a"}) + "\n\n"
    for worker, seconds in (line.split(",") for line in RECORDING.splitlines()[1:])
)
WITH_MORE = "host, seconds, worker\n" + "".join(
    f"a, {line.split(',')[1]}, {line.split(',')[0]}\n" for line in RECORDING.splitlines()[1:]
)


@pytest.mark.parametrize("text", [RECORDING, "\ufeff" + RECORDING.replace("\n", "\r\n"), WITH_MORE, JSON_LINES])
def test_each_worker_replays_its_own_and_begins_again(trace, text):
    delay = trace(text)
    assert replayed(delay, 0, 7) == [1.0, 1.5, 0.5, 1.0, 1.5, 0.5, 1.0]
    assert replayed(delay, 1, 3) == [2.5, 2.0, 2.5]
    assert replayed(delay, 2, 2) == [4.0, 4.0]
    assert delay.draws(random_stream(0, "any"))() == 1.0


def test_workers_are_told_by_number_and_not_by_order(trace):
    delay = trace("worker,seconds\n7,3\n2,1\n7,4\n10,5\n")
    assert [replayed(delay, worker, 2) for worker in range(3)] == [[1.0, 1.0], [3.0, 4.0], [5.0, 5.0]]


def test_recordings_are_reused_in_turn_from_a_random_place(trace):
    """Of ten numbers: the eleven others that replay the first worker's start anywhere, by their own streams."""
    delay = trace("worker,seconds\n" + "".join(f"0,{second}\n1,100\n" for second in range(1, 11)))
    starts = []
    for worker in range(2, 24, 2):
        values = replayed(delay, worker, 12)
        assert values == [(values[0] - 1 + step) % 10 + 1 for step in range(12)]
        assert values == replayed(delay, worker, 12)
        assert replayed(delay, worker + 1, 1) == [100.0]
        starts.append(values[0])
    assert len(set(starts)) >= 5
    assert starts != [replayed(delay, worker, 1, seed=1)[0] for worker in range(2, 24, 2)]


def test_one_factor_gives_them_the_mean_asked_for(trace):
    delay = trace("worker,seconds\n0,1\n0,2\n1,6\n", mean=6.0)
    assert (replayed(delay, 0, 2), replayed(delay, 1, 1)) == ([2.0, 4.0], [12.0])


def test_a_run_replayed_takes_the_time_it_took(tmp_path):
    """The same workers commit in the same order at the same times, smaller last batches included."""
    settings = {"workers": 5, "epochs": 3, "batch_size": 48, "rule": "asgd"}
    tardigrad.train("quadratic", delay="gamma(machine_cv=0.6)", directory=tmp_path / "first", **settings)
    trace = f"trace(path={str(tmp_path / 'first')!r})"
    tardigrad.train("quadratic", delay=trace, directory=tmp_path / "second", seed=3, **settings)
    first, second = (commits(tmp_path / name) for name in ("first", "second"))
    assert {samples for _, _, samples in first} == {48, 16}
    assert [worker for _, worker, _ in first] == [worker for _, worker, _ in second]
    assert [time for time, _, _ in second] == pytest.approx([time for time, _, _ in first], rel=1e-9)


def commits(directory):
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()[1:]]
    return [(line[1], line[5][0][0], line[5][0][4]) for line in lines if line[0] == "commit"]


HEADER = json.dumps(
    {
        "events": {
            "pull": ["time", "worker", "lease"],
            "commit": ["time", "contributions"],
            "reject": ["time", "worker"],
            "contribution": ["worker", "samples"],
        }
    }
)


def log(tmp_path, *events, tail=""):
    """A run directory with these events in its log."""
    text = "\n".join([HEADER, *(json.dumps(event) for event in events)]) + "\n" + tail
    (tmp_path / "log.jsonl").write_text(text)
    return build_delay(f"trace(path={str(tmp_path)!r})")


def test_a_log_is_read_from_pull_to_commit_or_rejection(tmp_path):
    delay = log(
        tmp_path,
        ["commit", 0.5, [[0, 8]]],  # pushed before any pull
        ["pull", 1.0, 0, [0, 0, 8]],
        ["pull", 1.0, 1, [0, 8, 12]],  # half as many samples
        ["reject", 4.0, 0],
        ["pull", 4.0, 0, [0, 0, 8]],
        ["commit", 6.0, [[0, 8], [1, 4]]],
        ["commit", 7.0, [[0, 8]]],  # a second push on one pull
        ["pull", 8.0, 1, None],  # never came back
        tail='["commit", 9.0, [[1',
    )
    assert (replayed(delay, 0, 3), replayed(delay, 1, 2)) == ([3.0, 2.0, 3.0], [10.0, 10.0])


def test_a_gradient_that_waits_for_its_round_ends_when_it_arrives(tmp_path):
    columns = {"held": ["time", "worker"], "join": ["time", "worker"], "digest": ["version", "digests"]}
    header = json.loads(HEADER)
    header["events"] |= columns
    events = [
        ["pull", 0.0, 0, [0, 0, 8]],
        ["pull", 0.0, 1, [0, 8, 16]],
        ["held", 2.0, 0],
        ["digest", 3, {"a": "00"}],
        ["join", 2.5, 2],
        ["commit", 6.0, [[0, 8], [1, 8]]],
        ["pull", 6.0, 0, [0, 16, 24]],
        ["commit", 6.0, [[0, 8]]],  # quicker than the log's clock ticks
    ]
    (tmp_path / "log-000001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (header, *events[:4])))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in events[4:]))
    delay = build_delay(f"trace(path={str(tmp_path)!r})")
    assert (replayed(delay, 0, 2), replayed(delay, 1, 1)) == ([2.0, 1e-6], [6.0])


BROKEN = [
    ("", "does not name worker and seconds"),
    ("worker,seconds\n", "holds no delays"),
    ("seconds\n1\n", "does not name worker and seconds"),
    ("worker;seconds\n0;1\n", "does not name worker and seconds"),
    ("worker,seconds\n0,1\n0,-2\n", r"line 3: seconds=-2.0 is not a number in \(0, inf\)"),
    ("worker,seconds\n0,nan\n", "line 2: seconds=nan is not a number"),
    ("worker,seconds\n0,inf\n", "line 2: seconds=inf is not a number"),
    ("worker,seconds\n0,0\n", r"line 2: seconds=0.0 is not a number in \(0, inf\)"),
    ("worker,seconds\n0,soon\n", "line 2: seconds='soon' is not a number"),
    ("worker,seconds\n0\n", "line 2: seconds=None is not a number"),
    ("worker,seconds\na,1\n", "line 2: worker='a' is not an integer >= 0"),
    ("worker,seconds\n-1,1\n", "line 2: worker=-1 is not an integer >= 0"),
    ("worker,seconds\n" + "0" * 200_000, "is not a CSV file"),
    ('{"worker": 0, "seconds": 1}\n[0, 1]\n', "line 2 is not a line that can be read"),
    ('{"worker": 0, "seconds": 1}\n{"worker"', "line 2 is not a line that can be read"),
    ('{"worker": 0}\n', "line 1: seconds=None is not a number"),
    ('{"worker": 0, "seconds": NaN}\n', "line 1: seconds=nan is not a number"),
    ('{"worker": true, "seconds": 1}\n', "line 1: worker=True is not an integer"),
    (b"\xff\xfe\x00\x80", "is not a text file"),
]


@pytest.mark.parametrize(("text", "sentence"), BROKEN, ids=[str(text)[:40] for text, _ in BROKEN])
def test_a_broken_file_is_refused_with_a_sentence(trace, text, sentence):
    with pytest.raises(InvalidArgument, match=f"^delay 'trace': .*recording.*{sentence}"):
        trace(text)


def test_what_is_not_there_is_refused_with_a_sentence(tmp_path):
    for path in (tmp_path / "nothing.csv", tmp_path):
        with pytest.raises(InvalidArgument, match=r"cannot be read \(No such file or directory\). Give a CSV file"):
            build_delay(f"trace(path={str(path)!r})")
    with pytest.raises(InvalidArgument, match=r"path=3 is not a path in quotes"):
        build_delay("trace(3)")
    with pytest.raises(InvalidArgument, match=r"delay 'trace': .*path"):
        build_delay("trace")


@pytest.mark.parametrize(
    "text", ["{}\n", "[]\n", "no\n", HEADER + '\n["leave", 1]\n', HEADER + '\n["pull", 1]\n', HEADER + "\n3\n"]
)
def test_a_log_that_is_none_is_refused_with_a_sentence(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(InvalidArgument, match=r"log\.jsonl is not the log of a run\. Give a CSV file"):
        build_delay(f"trace(path={str(tmp_path)!r})")


def test_a_log_without_commits_holds_no_delays(tmp_path):
    for events in ([], [["pull", 1.0, 0, None]]):
        with pytest.raises(InvalidArgument, match="holds no delays"):
            log(tmp_path, *events)


@pytest.mark.parametrize("mean", [0.0, -1.0, float("inf"), float("nan"), "1", True])
def test_a_mean_out_of_range_is_refused(trace, mean):
    with pytest.raises(InvalidArgument, match=r"delay 'trace': mean=.* is not a number"):
        trace(RECORDING, mean=mean)
