"""Checkpoints on disk: what was put in comes out to the bit; what is torn or altered is noticed."""

import contextlib
import errno
import gzip
import json
import math
import os
import re
import struct

import numpy as np
import pytest
import torch

from tardigrad import checkpoint
from tardigrad.checkpoint import (
    has_checkpoint,
    is_checkpoint_file,
    list_checkpoints,
    read_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from tardigrad.durable import checksum
from tardigrad.errors import InvalidArgument, RunDirectoryError
from tardigrad.logs import LogWriter
from tardigrad.segments import Position

LOG = "notes.jsonl"


class Kill(BaseException):
    """What a killed process does not survive."""


def write(directory, version, *, weight=None):
    """A checkpoint whose state names its version, after one more line of the log."""
    with (directory / LOG).open("a") as file:
        file.write("line\n")
    state = {"version": version, "weights": torch.full((3,), float(version if weight is None else weight))}
    return write_checkpoint(directory, state, version=version, growing=reached(directory))


def reached(directory):
    """Where the growing file ends now."""
    path = directory / LOG
    return {LOG: Position(path.stat().st_size, checksum(path))}


def files(directory):
    return sorted(path.name for path in directory.iterdir() if is_checkpoint_file(path.name))


def test_a_state_comes_back_to_the_bit(tmp_path):
    bits = torch.tensor([1, 0x7F800001, -1, 2**31 - 1], dtype=torch.int32).view(torch.float32)  # subnormal, NaNs
    state = {
        "bits": bits,
        "nested": {3: {"mean": torch.arange(6.0).view(2, 3).t()}, 10: {}},
        "count": torch.tensor(7),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "numbers": [
            0.1 + 0.2,
            5e-324,
            1.7976931348623157e308,
            -0.0,
            2**80,
            True,
            None,
            "text\n\u2028",
            np.float64(1 / 3),
        ],
        "unusual": (math.inf, -math.inf, math.nan),
    }
    write_checkpoint(tmp_path, state, version=4, growing={})
    found = read_checkpoint(tmp_path)
    assert (found.version, found.path, found.growing) == (4, tmp_path / "checkpoint-4.json", {})
    assert torch.equal(found.state["bits"].view(torch.int32), bits.view(torch.int32))
    assert torch.equal(found.state["nested"]["3"]["mean"], state["nested"][3]["mean"])
    assert found.state["nested"]["10"] == {}
    assert (found.state["count"].item(), found.state["count"].shape) == (7, ())
    assert found.state["half"].dtype == torch.bfloat16
    assert [struct.pack("d", x) for x in found.state["numbers"][:4]] == [
        struct.pack("d", x) for x in state["numbers"][:4]
    ]
    assert found.state["numbers"][4:] == state["numbers"][4:]
    assert found.state["numbers"][5] is True
    assert found.state["unusual"][:2] == [math.inf, -math.inf]
    assert math.isnan(found.state["unusual"][2])


def test_places_that_read_alike_stay_apart(tmp_path):
    state = {"a/b": {"c": torch.zeros(1)}, "a": {"b/c": torch.ones(1)}}
    write_checkpoint(tmp_path, state, version=0, growing={})
    found = read_checkpoint(tmp_path).state
    assert (found["a/b"]["c"].item(), found["a"]["b/c"].item()) == (0.0, 1.0)


def test_what_cannot_be_held_is_refused_by_its_place(tmp_path):
    with pytest.raises(InvalidArgument, match="state engine/heap/1 is a set"):
        write_checkpoint(tmp_path, {"engine": {"heap": [0, {1}]}}, version=0, growing={})
    assert list(tmp_path.iterdir()) == []


def test_the_last_two_are_kept(tmp_path):
    for version in (8, 9, 10, 110):
        write(tmp_path, version)
        assert read_checkpoint(tmp_path).version == version
    assert [name for name in files(tmp_path) if name.endswith(".json")] == ["checkpoint-10.json", "checkpoint-110.json"]
    assert len(files(tmp_path)) == 4


def test_one_that_was_gone_back_from_is_removed(tmp_path):
    for version in (3, 9, 5):
        write(tmp_path, version)
    assert [name for name in files(tmp_path) if name.endswith(".json")] == ["checkpoint-3.json", "checkpoint-5.json"]


def test_a_second_one_of_the_same_version_replaces_the_first(tmp_path):
    write(tmp_path, 3)
    for weight in (1.0, 2.0):
        write_checkpoint(tmp_path, {"weights": torch.tensor([weight])}, version=7, growing=reached(tmp_path))
    assert len(files(tmp_path)) == 4
    assert read_checkpoint(tmp_path).state["weights"].item() == 2.0


@pytest.mark.parametrize("same_version", [False, True])
@pytest.mark.parametrize("step", range(9))
def test_killed_at_any_step_of_writing_the_last_whole_one_is_read(tmp_path, monkeypatch, step, same_version):
    """A call that touches the disk is the last one: whether it came to it or not, there is a whole checkpoint."""
    write(tmp_path, 3)
    write(tmp_path, 5)
    calls = iter(range(100))

    def killing(function):
        def call(*arguments, **keywords):
            if next(calls) == step:
                raise Kill
            return function(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch, contextlib.suppress(Kill):
        patch.setattr(os, "fsync", killing(os.fsync))
        patch.setattr(os, "replace", killing(os.replace))
        patch.setattr(checkpoint.Path, "unlink", killing(checkpoint.Path.unlink))
        write(tmp_path, 5 if same_version else 6, weight=6)
    assert next(calls) > step or same_version, "every step was come to"
    known = read_checkpoint(tmp_path)
    renamed = step >= 6  # the JSON's renaming is step 5
    assert known.version == (6 if renamed and not same_version else 5)
    assert known.state["weights"].tolist() == [6.0 if renamed else 5.0] * 3
    for version in (9, 10):
        write(tmp_path, version)
        assert len([name for name in files(tmp_path) if name.endswith(".json")]) == 2
    assert len(files(tmp_path)) == 4, "what the killed one left behind is gone"


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(content[:-1])
    else:
        content[int(how * (len(content) - 1))] ^= 4
        path.write_bytes(content)


PLACES = (0.0, 0.01, 0.03, 0.2, 0.5, 0.8, 0.97, 1.0)


@pytest.mark.parametrize("how", [*PLACES, "missing", "short"])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_read(tmp_path, kind, how):
    write(tmp_path, 3)
    write(tmp_path, 5)
    (victim,) = tmp_path.glob(f"checkpoint-5*.{kind}")
    damaged(victim, how)
    if (kind, how) == ("json", "missing"):
        assert read_checkpoint(tmp_path).version == 3
        return
    with pytest.warns(UserWarning, match=f"{victim.name}.* goes on from checkpoint-3.json") as caught:
        found = read_checkpoint(tmp_path)
    assert len(caught) == 1
    assert (found.version, found.state["version"], found.growing[LOG].bytes) == (3, 3, 5)


def test_a_log_that_was_altered_is_noticed_as_far_as_a_checkpoint_needs_it(tmp_path):
    write(tmp_path, 3)
    write(tmp_path, 5)
    log = tmp_path / LOG
    log.write_text("line\nlin\u0101\n")
    with pytest.warns(UserWarning, match=r"notes.jsonl, which a checkpoint needs, is torn or was altered"):
        assert read_checkpoint(tmp_path).version == 3
    log.write_text("line\nline\nwhatever came later\n")
    assert read_checkpoint(tmp_path).growing[LOG].bytes == 10
    log.write_text("lin")
    with pytest.raises(RunDirectoryError, match=r"No checkpoint in .* can be used\. To begin the run anew, remove"):
        read_checkpoint(tmp_path)


def test_every_damaged_file_is_named_when_none_is_left(tmp_path):
    write(tmp_path, 3)
    write(tmp_path, 5)
    for path in tmp_path.glob("checkpoint-*.json"):
        damaged(path, "short")
    with pytest.raises(RunDirectoryError, match=r"checkpoint-5.json is torn.*checkpoint-3.json is torn"):
        read_checkpoint(tmp_path)


def altered(path, **changes):
    """The same checkpoint with other content and a checksum that fits."""
    content = json.loads(path.read_text())["content"] | changes
    body = f'"content": {json.dumps(content)}}}\n'.encode()
    path.write_bytes(checkpoint._first_line(body) + body)


def test_another_format_is_refused(tmp_path):
    write(tmp_path, 3)
    altered(write(tmp_path, 5), format=3, written_with={"tardigrad": "9.0"})
    with pytest.raises(RunDirectoryError, match=r"format 3, written by tardigrad 9\.0; this one reads format 2"):
        read_checkpoint(tmp_path)


def test_another_torch_is_said(tmp_path):
    path = write(tmp_path, 3)
    known = json.loads(path.read_text())["content"]["written_with"]
    altered(path, written_with={**known, "torch": "1.0"})
    words = f"checkpoint-3.json was written with torch 1.0, not {torch.__version__}: from here on the run may differ"
    with pytest.warns(UserWarning, match=re.escape(words)):
        assert read_checkpoint(tmp_path).version == 3


def test_a_name_that_leads_out_of_the_directory_is_not_followed(tmp_path):
    inside = tmp_path / "run"
    inside.mkdir()
    path = write(inside, 3)
    (tensors,) = inside.glob("*.safetensors")
    tensors.rename(tmp_path / tensors.name)
    known = json.loads(path.read_text())["content"]["tensors"]
    altered(path, tensors={**known, "file": f"../{tensors.name}"})
    with pytest.raises(RunDirectoryError, match="no file of its directory"):
        read_checkpoint(inside)


def test_removing_leaves_what_belongs_to_others(tmp_path):
    write(tmp_path, 3)
    (tmp_path / "checkpoint-of-mine.json").write_text("mine")
    assert has_checkpoint(tmp_path)
    remove_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-of-mine.json", LOG]
    assert not has_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path) is None
    assert read_checkpoint(tmp_path / "nowhere") is None


def test_as_many_are_kept_as_asked(tmp_path):
    for version in range(1, 6):
        write_checkpoint(tmp_path, {"version": version}, version=version, growing={}, kept=3)
    assert list_checkpoints(tmp_path) == [3, 4, 5]
    write_checkpoint(tmp_path, {"version": 10}, version=10, growing={}, kept=1)
    assert list_checkpoints(tmp_path) == [10]


def test_a_particular_one_is_read_and_no_other(tmp_path):
    for version in (3, 5):
        write(tmp_path, version)
    assert read_checkpoint(tmp_path, 3).state["version"] == 3
    with pytest.raises(RunDirectoryError, match=r"no checkpoint of version 4; it has: 3, 5\."):
        read_checkpoint(tmp_path, version=4)
    with pytest.raises(RunDirectoryError, match=r"no checkpoint of version 4; it has none\."):
        read_checkpoint(tmp_path / "nowhere", version=4)
    (tmp_path / "checkpoint-5.json").write_text("torn")
    with pytest.raises(RunDirectoryError, match=r"checkpoint-5.json is torn"):
        read_checkpoint(tmp_path, version=5)


def test_what_grows_while_it_is_written_is_no_part_of_it(tmp_path):
    write(tmp_path, 3)
    then = reached(tmp_path)
    with (tmp_path / LOG).open("a") as file:
        file.write("a line that came meanwhile\n")
    write_checkpoint(tmp_path, {"version": 5}, version=5, growing=then)
    assert read_checkpoint(tmp_path).growing[LOG].bytes == 5


def test_the_log_is_sealed_over_its_segments(tmp_path):
    log = LogWriter(tmp_path, header={"format": 2}, segment_bytes=60)
    for number in range(20):
        log.write(f'["note",{number}.0,"words"]\n')
    there = log.position()
    for number in range(20):
        log.write(f'["note",{number}.0,"later"]\n')  # closes the segment in which the position lies
    assert log.position().segment > there.segment > 2
    log.close()
    write_checkpoint(tmp_path, {"version": 1}, version=1, growing={"log.jsonl": there})
    assert read_checkpoint(tmp_path).growing == {"log.jsonl": there}
    packed = tmp_path / "log-000002.jsonl.gz"
    content = gzip.decompress(packed.read_bytes())
    packed.write_bytes(gzip.compress(content.replace(b"words", b"wards")))
    with pytest.raises(
        RunDirectoryError, match=r"One of log-000001\.jsonl\.gz to .*, which a checkpoint needs, was alt"
    ):
        read_checkpoint(tmp_path)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(RunDirectoryError, match=r"log-000002\.jsonl\.gz, which a checkpoint needs, is torn"):
        read_checkpoint(tmp_path)
    packed.unlink()
    with pytest.raises(RunDirectoryError, match=r"log-000002\.jsonl\.gz is missing"):
        read_checkpoint(tmp_path)


def refuse(error):
    def call(*_, **__):
        raise error

    return call


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
WORDS = r"checkpoint-7\.json could not be written: the disk is full\. .*checkpoint-5\.json still stands: make room"


@pytest.mark.parametrize("step", range(7))
def test_on_a_full_disk_the_checkpoint_before_stands(tmp_path, monkeypatch, step):
    """The disk is full at the n-th call that touches it; the last call is the one that seals the directory."""
    write(tmp_path, 5)
    before, calls = files(tmp_path), iter(range(100))

    def failing(function):
        def call(*arguments):
            if next(calls) == step:
                raise NO_SPACE
            return function(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(os.fsync))
        patch.setattr(os, "replace", failing(os.replace))
        with pytest.raises(RunDirectoryError, match=WORDS):
            write(tmp_path, 7)
    assert next(calls) == step + 1
    assert files(tmp_path) == before
    assert read_checkpoint(tmp_path).state["version"] == 5
    write(tmp_path, 7)
    assert read_checkpoint(tmp_path).state["version"] == 7


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_write_to_a_device_that_is_full(tmp_path, kind):
    write(tmp_path, 5)
    before = files(tmp_path)
    (tmp_path / f"checkpoint-7.{kind}.tmp").symlink_to("/dev/full")
    with pytest.raises(RunDirectoryError, match=WORDS):
        write(tmp_path, 7)
    assert files(tmp_path) == before
    assert read_checkpoint(tmp_path).state["version"] == 5


def test_a_full_disk_leaves_the_one_of_the_same_version(tmp_path, monkeypatch):
    write(tmp_path, 7)
    monkeypatch.setattr(checkpoint, "_write_state", refuse(NO_SPACE))
    with pytest.raises(RunDirectoryError, match=r"checkpoint-7\.json still stands"):
        write(tmp_path, 7, weight=1.0)
    assert read_checkpoint(tmp_path).state["weights"].tolist() == [7.0] * 3


def test_without_an_earlier_one_a_full_disk_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", refuse(NO_SPACE))
    with pytest.raises(RunDirectoryError, match=r"There is no earlier checkpoint: make room"):
        write(tmp_path, 7)
    assert files(tmp_path) == []


def test_another_error_of_the_disk_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", refuse(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(PermissionError):
        write(tmp_path, 7)
    assert files(tmp_path) == []
