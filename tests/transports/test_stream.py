"""The stream: messages that come out as they went in, and everything that may come instead of one."""

import itertools
import json
import struct
import threading

import pytest
from lines import Scripted, bytes_of, channels, closed, sockets

from tardigrad.errors import ProtocolError
from tardigrad.transports import stream
from tardigrad.transports.connections import CHUNK, Plain, batches, beyond
from tardigrad.transports.stream import Channel, Message, Piece, Stalled


@pytest.fixture
def pair():
    both = channels()
    yield both
    closed(*both)


def frame(body, magic=b"tgs1"):
    return struct.pack("<4sI", magic, len(body)) + body


CONTENTS = [{}, {"loss": float("inf"), "leases": [[1, 2, 3]], "text": "ü"}, {"nested": {"none": None, "no": False}}]


@pytest.mark.parametrize("content", CONTENTS)
def test_words_and_data_arrive_as_they_were_sent(pair, content):
    pair[0].send("word", content)
    assert pair[1].receive() == Message("word", content)


def test_messages_that_wait_are_kept_apart_and_in_order(pair):
    for number in range(200):
        pair[0].send("n", {"number": number}, [Piece("", bytes([number]) * number)])
    for number in range(200):
        assert pair[1].receive() == Message("n", {"number": number}, (bytes([number]) * number,))


@pytest.mark.parametrize("size", [0, 1, 63, 65536, 65537, 3 * CHUNK + 5])
def test_pieces_go_straight_to_their_place_and_others_into_the_message(pair, size):
    content = bytes(itertools.islice(itertools.cycle(range(251)), size))
    place = bytearray(size + 20)
    pair[1].place("slot", memoryview(place))
    pieces = [Piece("", b"before"), Piece("slot", content, 10), Piece("", content)]
    sending = threading.Thread(target=pair[0].send, args=("w", {}, pieces))
    sending.start()
    assert pair[1].receive().blobs == (b"before", content)
    sending.join()
    assert place == bytes(10) + content + bytes(10)


def test_memory_of_any_type_travels_as_its_bytes(pair):
    pair[0].send("w", {}, [Piece("", memoryview(bytes(8)).cast("d"))])
    assert pair[1].receive().blobs == (bytes(8),)


def test_a_place_may_be_changed(pair):
    first, second = bytearray(4), bytearray(4)
    for place in (first, second):
        pair[1].place("slot", memoryview(place))
        pair[0].send("w", {}, [Piece("slot", b"abcd")])
        pair[1].receive()
    assert (first, second) == (b"abcd", b"abcd")


@pytest.mark.parametrize(("offset", "size"), [(0, 17), (16, 1), (10**30, 1), (1, 16)])
def test_what_is_beyond_its_place_is_refused_and_nothing_is_written(pair, offset, size):
    place = bytearray(16)
    pair[1].place("slot", memoryview(place))
    pair[0].send("w", {}, [Piece("slot", b"x" * size, offset)])
    with pytest.raises(ProtocolError, match="of 'slot', of 16"):
        pair[1].receive()
    assert place == bytes(16)


def test_what_is_sent_to_a_place_that_nobody_named_is_refused(pair):
    """As a blob it would be overlooked, and its message handed on with what lay there before."""
    pair[0].send("w", {}, [Piece("", b"loose"), Piece("elsewhere", b"lost")])
    with pytest.raises(ProtocolError, match="to 'elsewhere', which is no place here"):
        pair[1].receive()


@pytest.mark.parametrize("end", ["close", "give_up"])
def test_nothing_of_a_message_is_taken_in_once_the_channel_is_closed_here(pair, monkeypatch, end):
    place, header = bytearray(4), stream._header
    pair[1].place("slot", memoryview(place))
    monkeypatch.setattr(stream, "_header", lambda *words: (getattr(pair[1], end)(), header(*words))[1])
    pair[0].send("w", {}, [Piece("slot", b"abcd")])
    with pytest.raises(EOFError, match="closed here"):
        pair[1].receive()


def test_what_is_too_long_is_refused_where_it_is_sent(monkeypatch):
    monkeypatch.setattr(stream, "MOST_HEADER", 100)
    connection = Scripted()
    with pytest.raises(ProtocolError, match=r"'w' has 11\d bytes of content; at most 100 travel"):
        Channel(connection).send("w", {"x": "y" * 100})
    assert connection.sent == []


def test_content_may_be_as_long_as_a_table_of_rates_is():
    content = {"x": "y" * (17 << 20)}
    assert Channel(Scripted(bytes_of("w", content))).receive() == Message("w", content)


def test_memory_is_taken_as_bytes_come_whatever_is_said_of_them():
    sizes = []

    class Measured(Scripted):
        def receive(self, view):
            sizes.append(len(view))
            return super().receive(view)

    channel = Channel(Measured(frame(b'["w", {}, [["", 0, 268435456]]]'), bytes(5 << 20)))
    with pytest.raises(EOFError):
        channel.receive()
    assert max(sizes) <= stream._GROWS
    assert len(sizes) > 2


HOSTILE = [
    frame(b"[]", b"HTTP"),
    frame(b"[]", b"tgs2"),
    struct.pack("<4sI", b"tgs1", 2**31),
    frame(b"\xff\xfe\x00"),
    frame(b"{}"),
    frame(b"[]"),
    frame(b'["w", {}, []]x'),
    frame(b'["w", [], []]'),
    frame(b"[7, {}, []]"),
    frame(b'["w", {}, [["p", 0]]]'),
    frame(b'["w", {}, [["p", -1, 4]]]'),
    frame(b'["w", {}, [["p", 0, -4]]]'),
    frame(b'["w", {}, [["p", 0, "x"]]]'),
    frame(b'["w", {}, 4]'),
    frame(b'["w", {}, [["p", 0, 1e999]]]'),
    frame(b"[" * 100_000),
    frame(b'["w", {}, [["p", 0, 1' + b"0" * 5000 + b"]]]"),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_bytes_that_are_no_message_are_refused(hostile):
    with pytest.raises(ProtocolError, match="nowhere sends"):
        Channel(Scripted(hostile + bytes(64))).receive()


def test_a_size_that_is_not_allowed_is_refused_before_anything_is_kept_for_it(monkeypatch):
    monkeypatch.setattr(stream, "MOST_BLOBS", 100)
    within = json.dumps(["w", {}, [["", 0, 60], ["", 0, 40]]]).encode()
    assert Channel(Scripted(frame(within), bytes(100))).receive().blobs == (bytes(60), bytes(40))
    beyond_it = json.dumps(["w", {}, [["", 0, 60], ["", 0, 41]]]).encode()
    with pytest.raises(ProtocolError, match="101 bytes for no place; at most 100"):
        Channel(Scripted(frame(beyond_it), bytes(101))).receive()


@pytest.mark.parametrize("kept", range(40))
def test_an_end_is_the_end_wherever_it_comes(kept):
    whole = bytes_of("word", {"a": 1}, [Piece("", b"12345678")])
    channel = Channel(Scripted(whole[:kept]))
    with pytest.raises(EOFError, match="has ended the connection"):
        channel.receive()


@pytest.mark.parametrize("step", [1, 2, 7, 8, 9, 30])
def test_it_does_not_matter_in_what_bits_the_bytes_come(step):
    whole = bytes_of("word", {"a": 1}, [Piece("", b"12345678")]) * 3
    channel = Channel(Scripted(*(whole[at : at + step] for at in range(0, len(whole), step))))
    assert [channel.receive() for _ in range(3)] == [Message("word", {"a": 1}, (b"12345678",))] * 3


# -- silence -----------------------------------------------------------------------------------------------------


def test_silence_is_a_stall_and_bytes_are_not():
    whole = bytes_of("word")
    patient = Channel(Scripted(-1, -1, -1, whole[:5], -1, -1, -1, whole[5:]))
    assert patient.receive().word == "word"
    with pytest.raises(Stalled, match="nothing came from nowhere for 20 seconds"):
        Channel(Scripted(-1, -1, -1, -1, whole)).receive()


def test_whoever_waits_says_that_it_lives_and_a_beat_is_no_message(monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(stream, "monotonic", lambda: float(next(clock)))
    connection = Scripted(-1, -1, bytes_of("word"))
    assert Channel(connection).receive().word == "word"
    assert connection.waits == (20.0, 5.0)
    assert len(connection.beats) == 3  # after 6, 12 and 18 seconds
    other = Channel(Scripted(*connection.beats, bytes_of("next")))
    assert other.receive().word == "next"


def test_whoever_has_just_spoken_needs_no_beat(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(stream, "monotonic", lambda: float(next(clock)))
    connection = Scripted(-1, -1, bytes_of("word"))
    Channel(connection).receive()
    assert connection.beats == []


def test_what_comes_far_more_slowly_than_before_is_given_up(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stream, "monotonic", lambda: now[0])
    size = 1 << 20
    whole = bytes_of("word", {}, [Piece("", bytes(size))])

    def comes(seconds):  # one message in four parts, so many seconds in all
        class Slow(Scripted):
            def receive(self, view):
                now[0] += seconds / 17  # 16 waits of 64 KiB, and one for the header
                return super().receive(view[:65536])

        return Slow(whole)

    channel = Channel(comes(34.0), patience=1.0)  # no rate is known yet: 64 KiB a second would do
    channel.receive()
    channel._connection = comes(17 * 34.0)
    channel.receive()
    channel._connection = comes(200 * 34.0)
    with pytest.raises(Stalled, match="far more slowly"):
        channel.receive()


def test_a_line_on_which_nothing_can_be_sent_is_a_stall():
    mine, theirs = sockets()
    channel = Channel(Plain(mine, "deaf"), patience=0.01)
    with pytest.raises(Stalled, match="deaf takes nothing any more"):
        channel.send("w", {}, [Piece("", bytes(10_000_000))])
    closed(channel, theirs)


def test_a_beat_that_went_out_in_part_is_finished_before_what_comes_next():
    mine, theirs = sockets()
    connection = Plain(mine, "full")
    mine.setblocking(False)
    room = 0
    while True:
        try:
            room += mine.send(bytes(1 << 16))
        except BlockingIOError:
            break
    mine.setblocking(True)
    connection.beat(b"beat")
    connection.beat(b"more")  # one is enough
    assert connection.is_late
    reading = threading.Thread(target=_read_all, args=(theirs, found := bytearray(), room + 8))
    reading.start()
    connection.send([memoryview(b"next")])
    reading.join()
    assert found[-8:] == b"beatnext"
    closed(connection, theirs)


def _read_all(end, found, size):
    while len(found) < size:
        found += end.recv(1 << 20)


# -- several threads ---------------------------------------------------------------------------------------------


def test_any_thread_may_send(pair):
    def send(number):
        for _ in range(50):
            pair[0].send("n", {"number": number}, [Piece("", bytes([number]) * 5000)])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    found = [pair[1].receive() for _ in range(200)]
    for thread in threads:
        thread.join()
    assert all(each.blobs == (bytes([each.content["number"]]) * 5000,) for each in found)
    assert sorted(each.content["number"] for each in found) == sorted(list(range(4)) * 50)


@pytest.mark.parametrize("end", ["close", "give_up"])
def test_whoever_waits_comes_back_when_the_channel_is_closed_here(pair, end):
    raised = []

    def wait():
        try:
            pair[1].receive()
        except (EOFError, OSError) as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    getattr(pair[1], end)()
    waiting.join()
    assert len(raised) == 1


def test_the_other_end_hears_of_a_close_and_not_of_a_giving_up():
    one, two = channels(patience=0.02)
    one.give_up()
    with pytest.raises(Stalled):
        two.receive()
    one.close()
    with pytest.raises(EOFError):
        two.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        two.send("w")
    closed(two)


# -- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("sizes", [[], [0], [1], [3, 0, 4], [2, 3], [10]])
def test_batches_are_all_bytes_in_order_each_as_long_as_the_others(sizes, most):
    views = [memoryview(bytes([number]) * size) for number, size in enumerate(sizes)]
    found = list(batches(views, most))
    assert b"".join(b"".join(batch) for batch in found) == b"".join(views)
    lengths = [sum(map(len, batch)) for batch in found]
    assert len(set(lengths[:-1])) <= 1
    assert all(0 < length <= lengths[0] <= 1.5 * most for length in lengths)


def test_no_short_rest_is_sent_alone():
    (batch,) = batches([memoryview(bytes(100)), memoryview(bytes(CHUNK))], CHUNK)
    assert sum(map(len, batch)) == CHUNK + 100


@pytest.mark.parametrize("sent", range(8))
def test_what_is_left_of_a_batch(sent):
    batch = [memoryview(b"abc"), memoryview(b"d"), memoryview(b"efg")]
    assert b"".join(beyond(batch, sent)) == b"abcdefg"[sent:]
