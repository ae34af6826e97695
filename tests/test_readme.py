"""The README: its Python runs, its commands exist, its files are there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_its_python_runs(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    directory, error, staleness = done.stdout.splitlines()[0].split()
    assert directory.startswith("runs/digits/dc-asgd-a-w16")
    assert 0.0 < float(error) < 0.15
    assert 14.0 < float(staleness) < 15.0
    assert done.stdout.splitlines()[1] == "[tensor([-0.1000, -0.1000, -0.1000])]"


def test_its_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")]
    assert len(targets) > 8
    for target in targets:
        assert (ROOT / target).exists(), target


def test_its_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "docs"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
