"""Segments on the disk: compressed, gone back from, and killed in the middle of either."""

import contextlib
import gzip
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tardigrad import durable, segments
from tardigrad.durable import GrowingFile, checksum
from tardigrad.errors import RunDirectoryError
from tardigrad.logs import LogWriter
from tardigrad.segments import Position, cut_back, has_log, is_log_file, pack, put_on_disk, require_whole

LINES = [f'["note",{number}.5,"words"]\n' for number in range(24)]
SIZE = 70


class Kill(BaseException):
    """What a killed process does not survive."""


def write(log, lines):
    for line in lines:
        log.write(line)
    return log


def content(directory):
    """Every byte of the log, segment by segment."""
    found = []
    for path in sorted(directory.glob("log*")):
        raw = path.read_bytes()
        found.append(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    return found


def uninterrupted(directory):
    directory.mkdir()
    write(LogWriter(directory, header={}, segment_bytes=SIZE), LINES).close()
    return content(directory)


def interrupted(directory, stop, end, *, pack_all=True):
    """A log with a position after ``stop`` lines, which was flushed after ``end``; ended without closing."""
    directory.mkdir()
    log = write(LogWriter(directory, header={}, segment_bytes=SIZE), LINES[:stop])
    there = log.position()
    write(log, LINES[stop:end])
    log.flush()
    log._packer.close()
    if not pack_all:
        for path in directory.glob("*.gz"):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    return there


def go_on(directory, there, stop):
    log = write(LogWriter(directory, resume=there, segment_bytes=SIZE), LINES[stop:])
    end = log.position()
    log.close()
    return end


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_cut_back_and_gone_on_with_it_is_the_whole_log(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("logs")
    stop = data.draw(st.integers(0, len(LINES)))
    end = data.draw(st.integers(stop, len(LINES)))
    log, undone = place / "run", place / "undone-1.jsonl"
    there = interrupted(log, stop, end, pack_all=data.draw(st.booleans()))
    require_whole(log / "log.jsonl", there)
    cut_back(log / "log.jsonl", there, undone)
    assert (undone.read_text() if undone.exists() else "") == "".join(LINES[stop:end])
    require_whole(log / "log.jsonl", there)
    last = go_on(log, there, stop)
    assert content(log) == uninterrupted(place / "whole")
    require_whole(log / "log.jsonl", last)
    assert sorted(path.name for path in log.iterdir()) == sorted(path.name for path in (place / "whole").iterdir())


def killing(patch, step):
    """Whatever touches the disk for the ``step``-th time ends the process."""
    calls = iter(range(1000))

    def ending(function):
        def call(*arguments, **keywords):
            if next(calls) == step:
                raise Kill
            return function(*arguments, **keywords)

        return call

    patch.setattr(os, "fsync", ending(os.fsync))
    patch.setattr(os, "replace", ending(os.replace))
    patch.setattr(segments.Path, "unlink", ending(segments.Path.unlink))
    return calls


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("step", range(18))
def test_killed_at_any_step_of_going_back_it_can_be_done_again(tmp_path, monkeypatch, step, packed):
    stop = 5
    log = tmp_path / "run"
    there = interrupted(log, stop, 20, pack_all=packed)
    with monkeypatch.context() as patch, contextlib.suppress(Kill):
        killing(patch, step)
        cut_back(log / "log.jsonl", there, tmp_path / "undone-1.jsonl")
    require_whole(log / "log.jsonl", there)
    cut_back(log / "log.jsonl", there, tmp_path / "undone-2.jsonl")
    first = (tmp_path / "undone-1.jsonl") if (tmp_path / "undone-1.jsonl").exists() else (tmp_path / "undone-2.jsonl")
    assert first.read_text() == "".join(LINES[stop:20])
    go_on(log, there, stop)
    assert content(log) == uninterrupted(tmp_path / "whole")


@pytest.mark.parametrize("step", range(6))
def test_killed_at_any_step_of_compressing_nothing_is_lost(tmp_path, monkeypatch, step):
    log = tmp_path / "run"
    interrupted(log, 24, 24, pack_all=False)
    before = content(log)
    with monkeypatch.context() as patch, contextlib.suppress(Kill):
        calls = killing(patch, step)
        pack(log, 2)
    assert next(calls) > step or step >= 4, "every step was come to"
    assert all(is_log_file(path.name) for path in log.iterdir())
    (log / "log-000002.jsonl.gz.tmp").unlink(missing_ok=True)
    both = (log / "log-000002.jsonl.gz").exists() and (log / "log-000002.jsonl").exists()
    found = content(log)
    if both:
        assert found.pop(1) == found[1]
    assert found == before


def test_an_end_that_was_never_begun_is_an_empty_one(tmp_path):
    """Killed between closing a segment and beginning the next."""
    log = tmp_path / "run"
    there = interrupted(log, 5, 20)
    (log / "log.jsonl").unlink()
    assert has_log(log)
    cut_back(log / "log.jsonl", there, tmp_path / "undone-1.jsonl")
    go_on(log, there, 5)
    assert content(log) == uninterrupted(tmp_path / "whole")


def test_what_is_shorter_than_its_position_is_refused(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    path.write_text("a line\n")
    with pytest.raises(RunDirectoryError, match=r"evaluations\.jsonl is damaged \(it holds less than 8 bytes"):
        cut_back(path, Position(8, checksum(path)), tmp_path / "undone")
    assert path.read_text() == "a line\n"


@pytest.mark.parametrize("change", ["altered", "short", "missing"])
def test_a_log_that_is_not_what_it_was_is_refused(tmp_path, change):
    log = tmp_path / "run"
    there = interrupted(log, 5, 5)
    path = log / "log.jsonl"
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + (b"x" if change == "altered" else b""))
    with pytest.raises(RunDirectoryError, match=r"log\.jsonl, which a checkpoint needs, is torn or was altered"):
        require_whole(path, there)


def test_a_log_whose_process_goes_on_with_other_content_is_refused(tmp_path):
    there = interrupted(tmp_path / "run", 5, 20)
    with pytest.raises(RunDirectoryError, match=r"log\.jsonl holds \d+ bytes, not \d+"):
        LogWriter(tmp_path / "run", resume=there)


def test_all_that_is_not_compressed_is_put_on_the_disk(tmp_path, monkeypatch):
    log = tmp_path / "run"
    interrupted(log, 5, 20, pack_all=False)
    pack(log, 1)
    seen = []
    monkeypatch.setattr(segments, "sync", lambda path: seen.append(path.name))
    put_on_disk(log)
    closed = [path.name for path in log.glob("log-*.jsonl")]
    assert sorted(seen) == sorted(["log.jsonl", *closed, "run"])
    assert seen[0] == "log.jsonl"
    assert len(closed) >= 2


@pytest.mark.parametrize(
    ("name", "belongs"),
    [("log.jsonl", True), ("log-000001.jsonl", True), ("log-1234567.jsonl.gz", True), ("log-000001.jsonl.gz.tmp", True),
     ("log-000001.jsonl.tmp", True), ("log-1.jsonl", False), ("log.jsonl.gz", False), ("my-log-000001.jsonl", False)],
)  # fmt: skip
def test_which_files_belong_to_a_log(name, belongs):
    assert is_log_file(name) is belongs


class Filling:
    """A file on a disk that is full after so many bytes, until there is room again."""

    def __init__(self, file, room):
        self.file, self.room, self.closed = file, room, False

    def write(self, content):
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.file.write(content[: self.room])
        self.room -= written
        return written


def test_after_a_full_disk_a_growing_file_goes_on_exactly_where_it_stopped(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    growing = GrowingFile(path)
    growing.write("one\n")
    growing.flush()
    growing._file = disk = Filling(growing._file, room=3)
    growing.write("two and three\n")
    words = rf"{re.escape(str(path))} could not be written: the disk is full\. Make room"
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match=words):
            growing.flush()
    assert path.read_text() == "one\ntwo"
    disk.room = 100
    growing.write("four\n")
    assert growing.checksum() == checksum(path)
    assert path.read_text() == "one\ntwo and three\nfour\n"
    assert growing.length == path.stat().st_size
    assert durable.checksum(path, 4) == durable.checksum_of([b"one\n"])
