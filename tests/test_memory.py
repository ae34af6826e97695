"""What a plan says of memory is what a run holds, at its largest."""

import os
import re
import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tardigrad.assembling import assemble, blueprint_of, configure
from tardigrad.config import RunConfig
from tardigrad.consistency import build_consistency
from tardigrad.engines import ENGINES
from tardigrad.engines.base import Observer
from tardigrad.engines.local import judging
from tardigrad.layout import FlatLayout
from tardigrad.memory import _WAITING, copies_of_versions, local_memory, simulated_memory, total
from tardigrad.plan import Subject, memory_needed
from tardigrad.records import Push
from tardigrad.rules.base import make_rule
from tardigrad.server import ParameterServer

KEYS = {"weights": ["weights"], "backups": ["backups"], "state": ["rule state", "window"], "held": ["held gradients"]}
SMALL = RunConfig(task="quadratic(dimension=1000, samples=256)", workers=5, batch_size=4, epochs=2, commit_path="exact")


class Peaks(Observer):
    """The most that the server held, by part, looked at after every event."""

    def __init__(self, server):
        self.server = server
        self.peaks = dict.fromkeys(KEYS, 0)
        self.before = set(slots_open())  # of another test, which nobody has closed yet
        self.shared = 0

    def look(self, *_):
        held = self.server.bytes_held()
        self.peaks = {name: max(peak, held[name]) for name, peak in self.peaks.items()}

    def committed(self, time, commit):
        self.look()
        mine = [size for slot, size in slots_open().items() if slot not in self.before]
        self.shared = max(self.shared, sum(mine))

    pulled = held = rejected = look


def slots_open():
    """The workers' slots that this process has open, and their bytes."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if re.match(r"/memfd:(down|up)-\d+", target):
            about = os.fstat(int(name))
            found[about.st_ino] = about.st_size
    return found


def peaks_of(config):
    engine = ENGINES.load(config.engine)
    resolved = configure(config)
    engine.prepare(blueprint_of(resolved))
    rule = make_rule(resolved.rule, optimizer=resolved.optimizer)
    job = assemble(resolved, blueprint_of(resolved).build_task(), rule)
    peaks = Peaks(job.server)
    engine(replace(job, observers=[peaks])).run()
    return peaks


RULES = {
    "asgd": "sgd",
    "dc-asgd-c": "sgd(momentum=0.9)",
    "dc-asgd-a": "sgd",
    "dc-asgd-a(shared=True)": "sgd(momentum=0.9)",
    "dc-lowrank": "sgd(momentum=0.9)",
    "dc-lowrank(window=7, kept='bfloat16')": "sgd",
}


@pytest.mark.parametrize("consistency", ["asynchronous", "ssp(1)", "synchronous", "synchronous(wait_for=3)"])
@pytest.mark.parametrize("rule", RULES)
def test_the_simulators_server_holds_what_is_planned(rule, consistency):
    config = SMALL.replace(rule=rule, optimizer=RULES[rule], consistency=consistency, delay="exponential", lr=1e-3)
    planned, peaks = memory_needed(Subject.of(config)), peaks_of(config).peaks
    for measured, names in KEYS.items():
        expected = sum(planned.of(name) for name in names)
        if measured == "backups" and consistency == "synchronous(wait_for=3)":
            assert 2 * planned.copy <= peaks[measured] <= expected
        else:
            assert peaks[measured] == expected, names


def test_what_probes_judge_is_planned_too():
    judged = ("dc-asgd-a", "dc-lowrank(window=9)", "asgd")
    config = SMALL.replace(rule="dc-asgd-c", probe_every=3, probe_rules=judged, delay="exponential", lr=1e-3)
    planned, peaks = memory_needed(Subject.of(config)), peaks_of(config).peaks
    assert planned.of("rule state") == 0
    assert peaks["state"] == planned.of("probes") - 2 * planned.copy
    assert memory_needed(Subject.of(config.replace(probe_every=0, probe_rules=()))).of("probes") == 0


def test_the_local_servers_slots_are_what_is_planned():
    """In rounds, which make sure that both workers push, however late one of them starts."""
    config = SMALL.replace(engine="local", workers=2, rule="dc-asgd-a", lr=1e-3, task="digits", batch_size=64, epochs=1)
    config = config.replace(consistency="synchronous")
    planned, seen = memory_needed(Subject.of(config)), peaks_of(config)
    assert seen.shared == planned.of("down slots") + planned.of("up slots")
    assert seen.peaks["backups"] <= planned.of("down slots")  # the slots themselves, and no copy beside them
    assert seen.peaks["backups"] == 2 * planned.copy
    assert seen.peaks["state"] == planned.of("rule state")
    assert seen.peaks["held"] == planned.of("held gradients") == 0


def test_a_local_round_waits_in_the_up_slots():
    config = SMALL.replace(engine="local", workers=2, consistency="synchronous", rule="asgd", task="digits", epochs=1)
    seen = peaks_of(config.replace(batch_size=128, lr=1e-3)).peaks
    assert seen["held"] == 0
    assert seen["backups"] == 2 * seen["weights"]


@pytest.mark.parametrize(
    ("spec", "workers", "copies"),
    [
        ("asynchronous", 16, 16),
        ("ssp(2)", 16, 16),
        ("synchronous", 16, 2),
        ("synchronous", 1, 1),
        ("synchronous(wait_for=12)", 16, 6),
        ("synchronous(wait_for=1)", 16, 16),
        ("synchronous(wait_for=20)", 16, 2),
    ],
)
def test_copies_of_versions(spec, workers, copies):
    assert copies_of_versions(build_consistency(spec), workers) == copies


def test_numbers_of_resnet_50():
    """25.6 M float32: 97.5 MiB a copy; 16 workers of dc-asgd-a hold 33 of them on the server."""
    layout = FlatLayout.of([torch.empty(25_557_032, device="meta")])
    rule, consistency = make_rule("dc-asgd-a"), build_consistency("asynchronous")
    memory = simulated_memory(rule, layout, workers=16, consistency=consistency)
    assert memory.copy == 102_228_128
    assert total(memory.server) - memory.of("scratch") == 33 * memory.copy
    assert memory.of("scratch") == 4 * 2**20
    local = local_memory(rule, layout, workers=16, consistency=consistency, buffers={})
    assert local.of("backups") == 0, "a backup that is a slot is not counted twice"
    assert abs(total(local.server) - local.of("scratch") - 49 * local.copy) < 49 * 64
    assert total(local.worker) == local.copy
    gpu = local_memory(rule, layout, workers=16, consistency=consistency, buffers={}, on_cuda=True)
    assert total(gpu.worker) == 3 * local.copy


def test_numbers_of_resnet_50_with_a_window():
    """128 gradients of 97.5 MiB, 6.1 GiB of them as bfloat16; a checkpoint is as much again; 400 for 50 workers."""
    layout = FlatLayout.of([torch.empty(25_557_032, device="meta")])
    consistency, rows = build_consistency("asynchronous"), {8: 128, 50: 400}
    for kept, size in (("as the weights", 4), ("bfloat16", 2)):
        rule = make_rule(f"dc-lowrank(kept={kept!r})")
        for workers, count in rows.items():
            memory = simulated_memory(rule, layout, workers=workers, consistency=consistency)
            assert memory.of("window") == count * (layout.size * size + 8 + 8 * count)
            assert memory.of("checkpoint") == (1 + workers) * memory.copy + memory.of("window")
            local = local_memory(rule, layout, workers=workers, consistency=consistency, buffers={})
            assert local.of("window") == memory.of("window")
            assert local.of("checkpoint") == memory.of("checkpoint")
            converted = count * (1 << 14) * 4 if kept == "bfloat16" else 0
            assert memory.of("scratch") == 8 * memory.copy + converted + 6 * 8 * count**2
    assert simulated_memory(make_rule("asgd"), layout, workers=8, consistency=consistency).of("window") == 0


class Made(TorchDispatchMode):
    """Bytes of what operations make and what is alive of it, at their most; what they are given was there before."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.made = set()
        self.given = {}  # kept, so that what is made later does not get the place of one that is gone

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in storages((args, kwargs)):
            if storage._cdata not in self.made:
                self.given[storage._cdata] = storage
        found = func(*args, **(kwargs or {}))
        for storage in storages(found):
            if storage._cdata not in self.made and storage._cdata not in self.given:
                self.made.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes()).atexit = False
        return found

    def freed(self, key, size):
        self.made.discard(key)
        self.now -= size


def storages(tree):
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("optimizer", ["sgd", "sgd(momentum=0.9, weight_decay=1e-4)"])
@pytest.mark.parametrize("kept", ["as the weights", "bfloat16"])
def test_a_commit_with_a_window_makes_no_more_than_is_planned(kept, optimizer):
    """Every tensor that a commit makes is counted: of rows of the window none is copied, whatever they are kept as."""
    weights = [torch.randn(100_000, generator=torch.Generator().manual_seed(0))]
    rule = make_rule(f"dc-lowrank(window=40, kept={kept!r})", optimizer=optimizer)
    server = ParameterServer(weights, rule, lr=1e-3, workers=2, commit_path="exact", measure_every=1)
    for turn in range(3):
        server.pull(turn % 2)
    for turn in range(2):
        server.push(turn, [weights[0] * 0.1])  # states and the window are there
        server.pull(turn)
    planned = simulated_memory(rule, server.layout, workers=2, consistency=build_consistency("asynchronous"))
    gradient = server.flat * 0.1
    with Made() as made:
        assert server.receive(Push(0, gradient, norm=1.0)).staleness == 1
    assert 2 * planned.copy <= made.most <= planned.of("scratch")
    if kept == "bfloat16":
        assert made.most >= rule.compensation.window_plan.scratch_for(2, server.layout)


def test_what_may_wait_to_be_evaluated_is_what_the_engine_lets_wait():
    assert _WAITING == judging._MOST_WAITING


def test_wider_scopes_need_more_scratch():
    layout = FlatLayout.of([torch.empty(300, 10), torch.empty(50)])
    rule, consistency = make_rule("dc-asgd-a"), build_consistency("asynchronous")
    sizes = {}
    for scope in ("element", "tensor", "model"):
        compensation = type("Wide", (type(rule.compensation),), {"scope": scope})()
        wide = replace(rule, compensation=compensation)
        sizes[scope] = simulated_memory(wide, layout, workers=1, consistency=consistency).of("scratch")
    assert sizes == {"element": 4 * layout.size, "tensor": 8 * 4 * 3008, "model": 8 * 4 * layout.size}
