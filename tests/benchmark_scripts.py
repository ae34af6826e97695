"""Benchmarks as modules, and what everything that they write has in common."""

import importlib.util
import json
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name):
    """A benchmark, found as it finds itself when it is run: with the folder of its parts beside it."""
    for folder in (FOLDER / "parts", FOLDER):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    for part in (FOLDER / "parts").glob("*.py"):  # what it registers when it is loaded is forgotten after each test
        sys.modules.pop(part.stem, None)
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    return module


def quick(name, tmp_path, *words):
    """What ``--quick`` of a benchmark writes; it says where it was measured, and names no path of the machine."""
    output = tmp_path / "bench" / "found.json"
    load(name).main(["--quick", *words, "--output", str(output)])
    found = json.loads(output.read_text())
    about = found["environment"]
    assert all(about[word] for word in ("cpu", "cores", "torch", "python", "tardigrad", "started", "command"))
    del about["command"]  # here it is that of the tests, whatever their folder
    text = json.dumps(found)
    assert str(tmp_path) not in text
    assert re.findall(r'(?<![\w.~\-}])/(?:work|home|root|tmp|usr|opt|var)/[^"]*', text) == []
    return found
