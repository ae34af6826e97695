"""The benchmark of carriers: each one carries, tiny, or the table says why not."""

import pytest

from benchmark_scripts import quick


@pytest.mark.long
def test_every_carrier_is_timed_or_said_to_be_missing(tmp_path, capsys):
    found = quick("carriers", tmp_path)
    shown = capsys.readouterr().out
    assert {"ray", "rpc", "gloo", "queue", "slots"} <= {
        row["carrier"].split(",")[0].split()[0] for row in found["carriers"]
    }
    for row in found["carriers"]:
        assert row["carrier"] in shown
        assert row.get("missing") or row["exchange, ms"] > 0.0
    for row in found["exchanges"]:
        assert row["exchange, ms"] > 0.0
        assert row["commit, ms"] > 0.0
