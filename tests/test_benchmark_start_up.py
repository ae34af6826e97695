"""The benchmark of start-up, and why start-up is short: what a run on the exact path does not load."""

import json
import subprocess
import sys

import pytest

from benchmark_scripts import quick

LOADED = """
import sys
import tardigrad
for name in tardigrad.__all__:
    getattr(tardigrad, name)
import torch
server = tardigrad.ParameterServer([torch.ones(3)], tardigrad.rule("dc-asgd"), lr=0.1)
server.pull(0)
assert server.push(0, [torch.ones(3)]).accepted
import json
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.long
def test_start_up_is_measured(tmp_path, capsys):
    found = quick("start_up", tmp_path)
    limits = {row["what"]: row["limit"] for row in found["imports"]}
    assert limits == {
        "import torch": None, "import tardigrad after it": 0.3, "every public name after that": None,
        "a Python that does nothing": None, "tardigrad --help": 0.5,
    }  # fmt: skip
    names = [row["what"] for row in found["commits"]]
    assert names == ["simulated, first commit, exact", "2 local workers, all compute, exact"]
    for row in [*found["imports"], *found["commits"]]:
        assert len(row["readings"]) == 1
        assert row["seconds"] > 0.0
        assert (row["within"] is None) is (row["limit"] is None)
    seconds = {row["what"]: row["seconds"] for row in found["imports"]}
    assert all(row["seconds"] > seconds["import tardigrad after it"] for row in found["commits"])
    shown = capsys.readouterr().out
    assert [name for name in (*limits, *names) if name not in shown] == []


def test_who_compiles_nothing_loads_no_compiler():
    """torch._dynamo takes as long to import as torch."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "tardigrad.server" in loaded
    assert {"torch._dynamo", "torch._inductor", "sympy", "sklearn", "matplotlib", "tyro", "rich"} & loaded == set()
