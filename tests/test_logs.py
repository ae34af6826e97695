"""The log: what is written comes back in order, whatever a segment's size and whenever a process ended."""

import errno
import gzip
import json
import os

import pytest

from tardigrad import logs
from tardigrad.errors import RunDirectoryError
from tardigrad.logs import LogWriter, read_events, read_header
from tardigrad.segments import is_log_file

HEADER = {"format": 2, "workers": 3}


def event(number):
    kind = "commit" if number % 3 else "pull"
    return [kind, number / 4, number]


def line(number):
    return json.dumps(event(number), separators=(",", ":")) + "\n"


def write(directory, numbers, *, close=True, **arguments):
    log = LogWriter(directory, **({"header": HEADER, "segment_bytes": 100} | arguments))
    for number in numbers:
        log.write(line(number))
    if close:
        log.close()
    return log


def events(directory, **arguments):
    return list(read_events(directory, **arguments))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_events_come_back_over_all_segments(tmp_path):
    write(tmp_path, range(30))
    assert read_header(tmp_path) == HEADER
    assert events(tmp_path) == [event(number) for number in range(30)]
    closed = names(tmp_path)[:-1]
    assert closed == [f"log-{number:06d}.jsonl.gz" for number in range(1, len(closed) + 1)]
    assert len(closed) > 3
    assert json.loads(gzip.decompress((tmp_path / closed[0]).read_bytes()).splitlines()[0]) == HEADER
    assert '"format"' not in (tmp_path / "log.jsonl").read_text()
    assert all(is_log_file(name) for name in names(tmp_path))


def test_a_segment_ends_with_the_line_that_fills_it(tmp_path):
    write(tmp_path, range(30))
    lengths = [len(gzip.decompress(path.read_bytes())) for path in sorted(tmp_path.glob("*.gz"))]
    assert all(100 < length <= 100 + len(line(29)) for length in lengths)


def test_reading_may_begin_later_and_choose(tmp_path):
    log = write(tmp_path, range(11), close=False)
    there = log.position()
    for number in range(11, 30):
        log.write(line(number))
    log.close()
    assert events(tmp_path, start=there) == events(tmp_path, start=11) == [event(number) for number in range(11, 30)]
    assert events(tmp_path, start=30) == []
    assert events(tmp_path, kind="pull") == [event(number) for number in range(0, 30, 3)]
    assert events(tmp_path, kind="pull", start=there) == [event(number) for number in range(12, 30, 3)]


def test_a_position_in_the_middle_needs_no_segment_before_it(tmp_path):
    log = write(tmp_path, range(20), close=False)
    there = log.position()
    log.close()
    for path in tmp_path.glob("*.gz"):
        path.write_bytes(b"not read")
    assert events(tmp_path, start=there) == []


@pytest.mark.parametrize("lost", range(1, 40))
def test_a_torn_last_line_is_passed_over(tmp_path, lost):
    write(tmp_path, range(6), segment_bytes=1000)
    text = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(text[:-lost])
    ends = [len(json.dumps(HEADER)) + 1 + sum(len(line(k)) for k in range(number + 1)) for number in range(6)]
    whole = sum(end - 1 <= len(text) - lost for end in ends)  # the line break itself may be missing
    assert events(tmp_path) == [event(number) for number in range(whole)]


def test_zeros_at_the_end_are_a_torn_line(tmp_path):
    write(tmp_path, range(3))
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b"\0" * 50)
    assert events(tmp_path) == [event(number) for number in range(3)]


def test_a_torn_line_elsewhere_is_named(tmp_path):
    write(tmp_path, range(30))
    path = tmp_path / "log-000002.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([*lines[:-1], lines[-1][:5]])))
    with pytest.raises(RunDirectoryError, match=rf"log-000002\.jsonl\.gz is damaged \(line {len(lines)}:.*Delete"):
        events(tmp_path)
    path.write_bytes(gzip.compress(b"".join([lines[0], b"3\n", *lines[1:]])))
    with pytest.raises(RunDirectoryError, match=r"log-000002\.jsonl\.gz is damaged \(line 2 is no event"):
        events(tmp_path)


@pytest.mark.parametrize("change", [lambda packed: packed[:-9], lambda packed: packed[:-6] + b"\1\2\3\4\5\6"])
def test_a_damaged_compressed_segment_is_named(tmp_path, change):
    write(tmp_path, range(30))
    path = tmp_path / "log-000003.jsonl.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RunDirectoryError, match=r"log-000003\.jsonl\.gz is damaged \(after line \d+: .*Delete"):
        events(tmp_path)


def test_a_missing_segment_is_named(tmp_path):
    write(tmp_path, range(30))
    (tmp_path / "log-000002.jsonl.gz").unlink()
    with pytest.raises(RunDirectoryError, match=r"log-000002\.jsonl\.gz is missing"):
        events(tmp_path)
    for place in (tmp_path / "nowhere", tmp_path / "log-000001.jsonl.gz"):
        with pytest.raises(RunDirectoryError, match=r"log\.jsonl is missing"):
            events(place)


def test_a_log_without_a_header_is_refused(tmp_path):
    for text in ("", line(0), '{"format": 2'):
        (tmp_path / "log.jsonl").write_text(text)
        with pytest.raises(RunDirectoryError, match="does not begin with a header object"):
            read_header(tmp_path)


def test_a_reader_is_not_disturbed_by_what_happens_meanwhile(tmp_path):
    """Segments are closed, compressed and begun under its eyes: it sees each event once, to where it came last."""
    log = write(tmp_path, range(10), close=False)
    log.flush()
    reading, seen = read_events(tmp_path), []
    for number in range(10, 40):
        seen.append(next(reading))
        log.write(line(number))
        log.flush()
        log._packer.close()  # what was closed is compressed now
    log.close()
    seen += reading
    assert seen == [event(number) for number in range(len(seen))]
    assert len(seen) >= 31


def test_what_is_flushed_is_there_to_read(tmp_path):
    log = write(tmp_path, range(3), close=False, segment_bytes=1000)
    assert (read_header(tmp_path), events(tmp_path)) == (HEADER, [])
    log.flush()
    assert events(tmp_path) == [event(number) for number in range(3)]


def test_what_cannot_be_compressed_stays_and_is_compressed_later(tmp_path, monkeypatch):
    def full(directory, number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(logs, "pack", full)
        log = write(tmp_path, range(30), close=False)
        end = log.position()
        log.close()
    assert not list(tmp_path.glob("*.gz"))
    assert len(list(tmp_path.glob("log-*.jsonl"))) > 3
    assert events(tmp_path) == [event(number) for number in range(30)]
    (tmp_path / "log-000001.jsonl.gz.tmp").write_bytes(b"begun")
    write(tmp_path, range(30, 32), header=None, resume=end)
    assert not list(tmp_path.glob("log-*.jsonl"))
    assert not list(tmp_path.glob("*.tmp"))
    assert events(tmp_path) == [event(number) for number in range(32)]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_full_disk_is_said(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    log = write(tmp_path, range(3), header=None, close=False)
    words = r"log\.jsonl could not be written: the disk is full\. Make room"
    with pytest.raises(RunDirectoryError, match=words):
        log.flush()
    with pytest.raises(RunDirectoryError, match=words):
        write(tmp_path, [])


class Kill(BaseException):
    """What a killed process does not survive."""


@pytest.mark.parametrize("step", range(4))
def test_killed_at_any_step_of_closing_a_segment_nothing_is_lost(tmp_path, monkeypatch, step):
    """Renaming the segment, and beginning the next: before or after each."""
    log = write(tmp_path, range(4), close=False)
    before, calls = log.position().segment, iter(range(100))

    def killing(function):
        def call(*arguments, **keywords):
            if next(calls) == step:
                raise Kill
            result = function(*arguments, **keywords)
            if next(calls) == step:
                raise Kill
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr(logs.os, "replace", killing(os.replace))
        patch.setattr(logs, "GrowingFile", killing(logs.GrowingFile))
        with pytest.raises(Kill):
            write_until_killed(log)
    assert next(calls) == step + 1
    seen = events(tmp_path)
    assert seen == [event(number) for number in range(len(seen))]
    assert before == 1
    assert len(seen) == 5, "the line that filled it is there"


def write_until_killed(log):
    for number in range(4, 99):
        log.write(line(number))
