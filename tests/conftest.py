"""For all tests: one thread (the number of threads changes last bits), and Hypothesis without clocks."""

import json
import logging
import os

import pytest
import torch
from hypothesis import settings

from tardigrad.engines.local.nursery import PRELOAD, prepare_for_scripts
from tardigrad.listing import KINDS

collect_ignore = ["between/paced.py"]  # for processes that tests start: it registers a task

settings.register_profile("laws", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("laws")


# Nobody looks at the curves of thousands of tiny runs, and every process would import TensorBoard for them.
os.environ["TARDIGRAD_TENSORBOARD"] = "off"

# torch writes a trace of every compilation where anybody listens, and pytest listens to everything.
logging.getLogger("torch.__trace").propagate = False


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _nursery():
    """One forkserver for all tests of real workers: it has what scripts import, and digits, as any run's own would.

    So every process is a fork that starts in no time; without, each of them imports scikit-learn anew.
    """
    os.environ[PRELOAD] = json.dumps({"task": "digits", "imports": [], "data_dir": ""})
    prepare_for_scripts()


@pytest.fixture(scope="module", autouse=True)
def registries_end_with_their_module_as_they_were():
    """The same for what is registered by a fixture that many tests share."""
    before = {kind: registry._entries for kind, registry in KINDS.items()}
    for registry in KINDS.values():
        registry._entries = dict(registry._entries)
    yield
    for kind, registry in KINDS.items():
        registry._entries = before[kind]


@pytest.fixture(autouse=True)
def registries_end_as_they_were(monkeypatch):
    """What a test registers is gone after it."""
    for registry in KINDS.values():
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture(scope="session")
def needs_compiler():
    """Skip where torch finds no C++ compiler."""
    from tardigrad.commit.compiled import compiler

    if compiler() is None:
        pytest.skip("needs a C++ compiler")
