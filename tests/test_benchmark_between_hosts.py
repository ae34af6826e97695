"""The benchmark between hosts: every way carries, tiny, on two hosts or on this one."""

import pytest

from benchmark_scripts import load, quick


@pytest.mark.long
def test_every_way_is_timed(tmp_path, capsys):
    found = quick("between_hosts", tmp_path)
    shown = capsys.readouterr().out
    ways = load("between_hosts").WAYS
    free = {row["way"]: row for row in found["free"]}
    assert set(ways) < set(free)
    for way in ways:
        assert way in shown
        assert free[way]["exchange, ms"] > 0.0
        assert ("commit, ms" in free[way]) == ("commit" in way)
    limited = {row["way"] for row in found["limited"]}
    assert limited == (set(list(ways)[:2]) if found["hosts"] == "two network namespaces" else set())
    assert "ray" in shown


def test_where_no_namespace_can_be_made_both_hosts_are_this_one(monkeypatch):
    bench = load("between_hosts")
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    with bench.two_hosts() as hosts:
        assert (hosts.names, hosts.address) == ((), "127.0.0.1")
        assert hosts.command(0, ["true"]) == ["true"]
