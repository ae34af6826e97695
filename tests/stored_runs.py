"""Runs that were stopped, and kept in a store."""

import json
from itertools import count

import fsspec
import pytest

import tardigrad
from tardigrad.checkpoint import read_checkpoint
from tardigrad.config import RunConfig
from tardigrad.errors import Stopped
from tardigrad.parcels import Parcel

QUADRATIC = RunConfig(task="quadratic(dimension=3, samples=96)")
SETTINGS = {"workers": 2, "epochs": 2, "rule": "dc-asgd-a", "batch_size": 8}
_numbers = count()


def new_url(kind, folder):
    """Where nothing is kept yet."""
    return f"file://{folder}/store" if kind == "file" else f"memory://stores/{next(_numbers)}"


def names_in(url):
    system, root = fsspec.core.url_to_fs(url)
    return sorted(path.rsplit("/", 1)[-1] for path in system.ls(root, detail=False))


def stopped_after(number):
    """Asked after every push; stops after so many."""
    asked = count(1)
    return lambda: next(asked) >= number


def stopped_run(place, url, number=10, **settings):
    with pytest.raises(Stopped):
        tardigrad.train(QUADRATIC, directory=place, store=url, stop=stopped_after(number), **SETTINGS | settings)


def take_up_again(place):
    """As a process does that goes on with a run: its next life begins."""
    known = json.loads((place / "environment.json").read_text())
    known.setdefault("resumed", []).append({})
    (place / "environment.json").write_text(json.dumps(known))


def checkpoint_of(place):
    found = read_checkpoint(place)
    return Parcel.at_checkpoint(place, version=found.version, growing=found.growing)
