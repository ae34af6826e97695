"""Exchanges wanted and possible: numbers that can be checked by hand."""

import math

import pytest

from tardigrad.errors import InvalidArgument
from tardigrad.traffic import Traffic, advice, bytes_per_second, described

RESNET_50 = 4 * 25_557_032
GIGABIT = 125e6


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ("1Gbit/s", 1.25e8),
        ("1 Gb/s", 1.25e8),
        ("10Gbps", 1.25e9),
        ("100 Mbit/s", 1.25e7),
        ("2.5gbit/s", 3.125e8),
        ("125MB/s", 1.25e8),
        ("64kB/s", 64e3),
        ("1e9bit/s", 1.25e8),
        ("800 b/s", 100.0),
    ],
)
def test_links(words, rate):
    assert bytes_per_second(words) == pytest.approx(rate)


@pytest.mark.parametrize("words", ["1Gbit", "fast", "0Mbit/s", "-1Gbit/s", "1 Gbit / s", "1Mib/s", "1e999bit/s", ""])
def test_what_is_no_link_is_refused(words):
    with pytest.raises(InvalidArgument, match="is not the speed of a link; type 1Gbit/s"):
        bytes_per_second(words)


def test_resnet_50_on_a_gigabit_link():
    traffic = Traffic(size=RESNET_50, steps=[0.5] * 16, commit=0.025, link=GIGABIT)
    assert traffic.exchange == pytest.approx(1.6356, abs=1e-3)  # 205 MB
    assert traffic.wanted == 32.0
    assert traffic.of_server_link == pytest.approx(1.2228, abs=1e-3)
    assert traffic.of_workers == pytest.approx(16 / (0.5 + 1.6356 + 0.025), abs=1e-2)
    assert traffic.of_commits == pytest.approx(40.0)
    assert traffic.possible == traffic.of_server_link
    assert traffic.most_workers == 2
    lines = described(traffic, about_commit="measured")
    assert lines[0] == "an exchange: 204 MB (gradient up, weights down), 1.64 s at 1 Gbit/s"
    assert [line.split()[0] for line in lines[3:]] == ["wanted", "workers", "server's", "commits"]


def test_what_to_do_where_the_servers_link_is_full():
    traffic = Traffic(size=RESNET_50, steps=[0.5] * 16, commit=0.025, link=GIGABIT)
    first, *rest = advice(traffic, batch=32, faster_commit="type this")
    assert first == "at most 3.8 % of what is wanted: the server's link is full. What helps:"
    assert rest[0].startswith("larger batches: 838 samples instead of 32, a step 26 times as long")
    assert rest[1] == "fewer workers: beyond 2 more add nothing"
    assert rest[2] == "a faster link: the server's would have to carry 26.2 Gbit/s each way"
    assert rest[3].startswith("not there yet: ")
    assert "type this" not in "".join(rest)
    larger = Traffic(size=RESNET_50, steps=[0.5 * 838 / 32] * 16, commit=0.025, link=GIGABIT)
    assert larger.of_server_link >= larger.wanted, "the advice, followed, is enough for what is shared"


def test_what_to_do_where_only_a_worker_waits_for_its_own_link():
    traffic = Traffic(size=1_000_000, steps=[0.1], commit=1e-4, link=10e6)
    first, *rest = advice(traffic, batch=8, faster_commit="type this")
    assert "workers wait for their own exchanges" in first
    assert rest[0] == "larger batches: with steps of 4 s an exchange is 5 % of the time"
    slower = Traffic(size=1_000_000, steps=[4.0], commit=1e-4, link=10e6)
    assert slower.is_enough


def test_what_to_do_where_the_server_is_busy():
    traffic = Traffic(size=RESNET_50, steps=[0.2] * 8, commit=0.1)
    assert math.isinf(traffic.of_server_link)
    assert traffic.exchange == 0.0
    assert traffic.most_workers == 3
    lines = advice(traffic, batch=16, faster_commit="--commit-path compiled")
    assert lines[0] == "at most 25 % of what is wanted: the server is busy with commits. What helps:"
    assert "a faster commit: --commit-path compiled" in lines
    assert not any("faster link" in line for line in lines)
    assert not any("link" in line for line in described(traffic, about_commit="measured"))


def test_one_that_nothing_keeps_busy():
    traffic = Traffic(size=RESNET_50, steps=[0.01], commit=1.0)
    assert traffic.most_workers == 1
    slow = Traffic(size=RESNET_50, steps=[0.01], commit=0.001, link=1e6)
    assert "fewer workers: beyond" in advice(slow, batch=1, faster_commit="")[2]
    assert slow.most_workers == 2  # while one sends, the other's weights come


def test_it_is_enough():
    traffic = Traffic(size=4000, steps=[1.0, 2.0], commit=1e-4, link=GIGABIT)
    assert traffic.is_enough
    assert traffic.wanted == 1.5
    assert advice(traffic, batch=1, faster_commit="") == ["link and server keep up with the workers."]
    assert advice(Traffic(4000, [1.0], 1e-4), batch=1, faster_commit="") == ["the server keeps up."]


def test_tied_workers_go_at_the_pace_of_the_slowest():
    traffic = Traffic(size=4000, steps=[1.0, 4.0], commit=1e-4, tied=True)
    assert traffic.wanted == 0.5
    assert "all at the pace of the slowest" in described(traffic, about_commit="x")[3]
