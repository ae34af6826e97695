"""A server whose weights lie in several shards gives the bits of one that holds them all, whatever happens."""

import math

import pytest
import torch
from sharded import WEIGHTS, Slot, alike, far, pair, require_equal, written_and_read

import tardigrad
from tardigrad.commit.groups import ParameterGroup
from tardigrad.errors import Diverged, InvalidArgument
from tardigrad.layout import FlatLayout
from tardigrad.leases import Leases
from tardigrad.optimizers import OPTIMIZERS
from tardigrad.optimizers.adam import AdamW
from tardigrad.optimizers.sgd import SGD
from tardigrad.records import Push
from tardigrad.rules import COMPENSATIONS
from tardigrad.rules.base import make_rule
from tardigrad.shards.links import near
from tardigrad.shards.ranges import Range, cut
from tardigrad.shards.server import ShardedServer, require_shardable
from tardigrad.testing.consistency import default_scripts
from tardigrad.testing.walks import SHAPES, gradient, random_events

DECAYS = "sgd(momentum=0.9, nesterov=True, weight_decay=0.01)"


def shardable(name):
    try:
        require_shardable(make_rule(name))
    except InvalidArgument:
        return False
    return True


RULES = [name for name in COMPENSATIONS.names() if shardable(name)]
GROUPS = [ParameterGroup(1), ParameterGroup(2, 0.5, AdamW()), ParameterGroup(1, 1.0, SGD(momentum=0.9))]


def walk(servers, events, **keywords):
    """Pulls and pushes of every server alike; their results."""
    found, number = [], 0
    for event in events:
        if event.action == "pull":
            snapshots = [server.pull(event.worker) for server in servers]
            assert all(torch.equal(snapshots[0].flat, other.flat) for other in snapshots[1:])
            continue
        g = gradient(servers[0].weights(), number)
        number += 1
        found.append([server.push(event.worker, g, **keywords) for server in servers])
    return found


# -- where the buffer is cut -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("shapes", [SHAPES, [(5,)] * 9, [(1000,)], [(0,), (3,), (0,), (64,), (1,)]])
def test_ranges_cover_the_buffer_once_and_begin_where_vectors_do(shapes, shards):
    layout = FlatLayout.of([torch.zeros(shape) for shape in shapes])
    ranges = cut(layout, shards)
    assert [part.start for part in ranges] == [0, *(part.stop for part in ranges[:-1])]
    assert ranges[-1].stop == layout.size
    sizes = [part.layout.size for part in ranges]
    assert max(sizes) - min(sizes) < 2 * 64
    aligned = 64 if layout.size >= 64 * shards else 1
    assert all(part.start % aligned == 0 for part in ranges)
    assert all(Range.from_json(part.as_json()) == part for part in ranges)


def test_a_range_knows_what_of_each_tensor_lies_in_it():
    layout = FlatLayout.of([torch.zeros(100), torch.zeros(0), torch.zeros(30), torch.zeros(200)])
    first, second = cut(layout, 2)
    assert (first.tensors, second.tensors) == ((0, 2), (2, 3))
    assert (first.layout.offsets, second.layout.offsets) == ((0, 112), (0, 16))
    assert (first.local([0, 3]), second.local([0, 3])) == ([0], [1])
    groups = [ParameterGroup(2), ParameterGroup(2, 0.5)]
    assert [group.tensors for group in first.groups(groups)] == [1, 1]
    assert (first.group_numbers(groups), second.group_numbers(groups)) == ([0, 1], [1])


def test_fewer_weights_than_shards_are_refused():
    with pytest.raises(InvalidArgument, match="shards=3: the weights have 2 elements"):
        cut(FlatLayout.of([torch.zeros(2)]), 3)


# -- the same bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.names(), DECAYS])
def test_every_rule_that_looks_at_single_weights_gives_the_same_bits(rule, optimizer):
    whole, sharded = pair(tardigrad.rule(rule, optimizer=optimizer), lr=0.01, measure_every=2)
    for one, other in walk((whole, sharded), random_events(40)):
        assert (one.version, one.contributions) == (other.version, other.contributions)
        assert (one.compensation_ratio is None) == (other.compensation_ratio is None)
        assert one.compensation_ratio is None or math.isclose(
            one.compensation_ratio, other.compensation_ratio, rel_tol=1e-5
        )
    require_equal(whole, sharded)
    assert whole.bytes_held() == sharded.bytes_held()


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_groups_with_learning_rates_and_optimizers_of_their_own(shards):
    whole, sharded = pair(shards=shards, groups=GROUPS, lr=lambda samples: (0.1, 0.01 + samples / 100, 0.05))
    walk((whole, sharded), random_events(40))
    require_equal(whole, sharded)


def test_tensors_that_are_absent_are_passed_over_in_every_shard():
    whole, sharded = pair(tardigrad.rule("dc-asgd-a", optimizer="adamw"), workers=1)
    for number, absent in enumerate([(), (1,), (0, 3), (), (0, 1, 2, 3), (2,)]):
        g = gradient(whole.weights(), number)
        flat = whole.layout.pack([torch.zeros_like(each) if k in absent else each for k, each in enumerate(g)])
        for server in (whole, sharded):
            server.pull(0)
            server.receive(Push(0, flat, absent=absent))
    require_equal(whole, sharded)


@pytest.mark.usefixtures("needs_compiler")
def test_the_compiled_path_gives_the_same_bits_too():
    whole, sharded = pair(weights=[torch.linspace(-1.0, 1.0, 70_001)], shards=3, commit_path="compiled", workers=2)
    for server in (whole, sharded):
        server.prepare()
    for number in range(6):
        g = whole.flat * 0.3 + torch.sin(torch.arange(70_001) * (number + 1.0))
        for server in (whole, sharded):
            server.push(number % 2, g)
            server.pull(number % 2)
    require_equal(whole, sharded)


@pytest.mark.parametrize("consistency", ["asynchronous", "ssp(1)", "synchronous", "synchronous(wait_for=2)"])
@pytest.mark.parametrize("policy", [None, "dynamic"])
def test_whatever_happens_all_that_is_decided_and_all_bits_are_the_same(consistency, policy):
    """Workers pull, push, push what is not finite, come, go, and are restored, with another number of shards."""

    def leases():
        return Leases(40, 2, epochs=2, workers=3)

    keywords = {"consistency": consistency, "leases": leases if policy else None, "workers": 3}
    for script in default_scripts(4, 60):
        servers = list(pair(**keywords))
        for number, draw in enumerate(script):
            servers = happens(servers, draw, number, keywords)
        require_equal(*servers)


def happens(servers, draw, number, keywords):
    """One event that is possible now, chosen by ``draw``; the servers that go on."""
    whole = servers[0]
    kind, worker = draw % 10, draw // 10 % 4
    outstanding = [each for each in whole.live if whole.participants.record(each).outstanding]
    if kind == 0:
        for server in servers:
            (server.leave if worker in server.live else server.join)(worker)
        alike(*(server.settle() for server in servers))
    elif kind == 1:
        state = written_and_read(servers[1].state_dict(under_way=True))
        servers = list(pair(shards=1 + draw // 100 % 4, opening=near if draw % 3 else far, **keywords))
        for server in servers:
            server.load_state_dict(state)
    elif kind < 6 and whole.ready():
        chosen = whole.ready()[draw % len(whole.ready())]
        assert whole.ready() == servers[1].ready()
        one, other = (server.pull(chosen) for server in servers)
        assert torch.equal(one.flat, other.flat)
        assert (one.version, one.lease) == (other.version, other.lease)
    elif outstanding:
        chosen = outstanding[draw % len(outstanding)]
        g = gradient(whole.weights(), number)
        if kind == 6:
            g[0].fill_(math.nan)
        alike(*(str(server.push(chosen, g)) for server in servers))
    return servers


# -- memory that the shards know ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", [near, far])
@pytest.mark.parametrize("consistency", ["asynchronous", "synchronous"])
def test_slots_hold_what_one_server_writes_there(opening, consistency):
    servers = pair(opening=opening, consistency=consistency, workers=2)
    slots = [{worker: (Slot(502), Slot(502)) for worker in range(2)} for _ in servers]
    for server, own in zip(servers, slots, strict=True):
        for worker, (down, up) in own.items():
            server.keep_in(worker, down, up)
    for number in range(8):
        for worker in servers[0].ready():
            for server, own in zip(servers, slots, strict=True):
                assert server.pull(worker, copy=False).flat is own[worker][0].flat
            assert torch.equal(slots[0][worker][0].flat, slots[1][worker][0].flat)
        worker, g = number % 2, gradient(servers[0].weights(), number)
        for server, own in zip(servers, slots, strict=True):
            own[worker][1].flat.copy_(server.layout.pack(g))
            server.receive(Push(worker, own[worker][1].flat), lasting=True)
        require_equal(*servers)


def test_a_push_that_waits_is_applied_though_its_worker_left_and_came_again_with_other_slots():
    whole, sharded = pair(opening=near, consistency="synchronous", workers=2)
    for server in (whole, sharded):
        own = {worker: (Slot(502), Slot(502)) for worker in range(2)}
        for worker, slots in own.items():
            server.keep_in(worker, *slots)
            server.pull(worker)
            slots[1].flat.fill_(0.1 + worker)
        server.receive(Push(0, own[0][1].flat), lasting=True)
        server.leave(0)
        server.join(0)
        server.keep_in(0, Slot(502), Slot(502))
        server.receive(Push(1, own[1][1].flat), lasting=True)
        server.settle()
    require_equal(whole, sharded)


# -- what is refused, and what ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rule": "clipping"}, "--shards 1"),
        ({"rule": "dc-lowrank"}, "scope 'model'"),
        ({"rule": "asgd", "probe_every": 5}, "a probe is of all weights"),
        ({"rule": "asgd", "shards": 0}, "shards"),
    ],
)
def test_what_needs_all_weights_in_one_place_is_refused_with_what_to_type(settings, sentence):
    rule = tardigrad.rule(settings.pop("rule"))
    with pytest.raises(InvalidArgument, match=sentence):
        ShardedServer(WEIGHTS, rule, lr=0.1, **{"shards": 2, **settings})


def test_weights_that_are_not_finite_are_found_in_whichever_shard_they_are():
    _, sharded = pair("asgd", lr=1.0, workers=1)
    huge = sharded.layout.zeros()
    huge[-1] = 3e38
    for _ in range(2):
        sharded.push(0, huge)
    with pytest.raises(Diverged, match="no longer finite"):
        sharded.push(0, torch.full_like(huge, math.nan))


def test_after_its_end_a_server_still_shows_its_last_weights():
    whole, sharded = pair()
    walk((whole, sharded), random_events(20))
    held = sharded.bytes_held()
    sharded.close()
    sharded.close()
    assert torch.equal(whole.flat, sharded.flat)
    alike(whole.weights(), sharded.weights())
    assert sharded.bytes_held() == held
