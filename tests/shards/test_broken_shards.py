"""Shards that raise, hang, end or part ways: what is said of it, and what is used of them no longer."""

import pytest
import torch
from sharded import WEIGHTS, alike, far, pair, raising, require_equal

import tardigrad
from tardigrad.errors import CompileError, ProtocolError, ShardLost, TardigradError
from tardigrad.shards.server import ShardedServer


def test_a_shard_that_is_at_another_version_refuses():
    _, sharded = pair("asgd", workers=1)
    sharded.links[1].told.holder.shard.version = 5
    with pytest.raises(ProtocolError, match="shard 1 is at version 5, not at 0"):
        sharded.push(0, sharded.layout.zeros())


def test_a_shard_that_is_gone_is_named_and_nothing_is_committed_any_more():
    _, sharded = pair("asgd", workers=1)
    sharded.links[2].told.gone = True
    with pytest.raises(ShardLost, match="shard 2"):
        sharded.push(0, sharded.layout.zeros() + 1.0)
    assert sharded.version == 0


def test_what_a_far_shard_raises_is_raised_here():
    _, sharded = pair("asgd", workers=1, commit_path="exact")
    words = sharded.links[1].told.holder.shard._words
    for error, found in ((CompileError("no g++."), CompileError), (KeyError("mine"), TardigradError)):
        words["prepare"] = lambda content, error=error: raising(error)
        with pytest.raises(found, match=r"no g\+\+|KeyError: 'mine'"):
            sharded.prepare()
    words["drop"] = lambda content: raising(ProtocolError("what was not waited for"))
    sharded.backups.drop(0)
    with pytest.raises(ProtocolError, match="not waited for"):
        sharded.bytes_held()


def test_answers_that_nobody_waits_for_are_read_before_they_fill_the_line():
    _, sharded = pair("asgd", workers=300)
    words = sharded.links[1].told.holder.shard._words
    drop = words["drop"]
    words["drop"] = lambda content: raising(ProtocolError(f"of worker {content['worker']}"))
    sharded.backups.drop(7)
    sharded.backups.drop(8)
    words["drop"] = drop
    for _ in range(300):
        sharded.backups.drop(0)
    with pytest.raises(ProtocolError, match="of worker 7"):
        sharded.bytes_held()
    assert sharded.bytes_held()["weights"] == sharded.flat.nbytes


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_rule_raises_in_one_shard_leaves_no_answer_that_another_question_gets(number):
    whole, sharded = pair("asgd", workers=1)
    shard = sharded.links[number].shard if number == 0 else sharded.links[number].told.holder.shard
    weights = shard._words["weights"]
    shard._words["weights"] = lambda content: raising(ValueError("a rule's own"))
    for server in (whole, sharded):
        server.push(0, server.layout.zeros() + 1.0)
    with pytest.raises((ValueError, TardigradError), match="a rule's own"):
        _ = sharded.flat
    shard._words["weights"] = weights
    require_equal(whole, sharded)
    assert whole.bytes_held() == sharded.bytes_held()


def test_an_interruption_ends_the_shards_for_nobody_knows_whose_answers_were_read():
    _, sharded = pair("asgd", workers=1)
    sharded.links[0].shard._words["bytes"] = lambda content: raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        sharded.bytes_held()
    sharded.links[0].shard._words["bytes"] = lambda content: {}
    for _ in range(2):
        with pytest.raises(ShardLost):
            sharded.bytes_held()
    sharded.close()


def test_weights_of_two_versions_are_nobodys():
    _, sharded = pair("asgd", workers=1)
    one = sharded.layout.zeros() + 1.0
    sharded.push(0, one)
    before = sharded.weights()
    words = sharded.links[1].told.holder.shard._words
    words["apply"] = lambda content: raising(ValueError("only here"))
    sharded.pull(0)
    with pytest.raises(TardigradError, match="only here"):
        sharded.push(0, one)
    alike(before, sharded.weights())  # as they were at the version that it says
    with pytest.raises(ProtocolError, match="shard 0 is at version 2, not at 1"):
        sharded.state_dict()
    sharded._gathered = 0
    with pytest.raises(ProtocolError, match="shard 0 is at version 2, not at 1"):
        sharded.weights()
    sharded.close()
    assert all(link.told.gone for link in sharded.links[1:])


def test_a_shard_that_hangs_is_waited_for_once():
    _, sharded = pair("asgd", workers=1)
    told, waited = sharded.links[1].told, []
    for _ in range(5):
        sharded.backups.drop(0)
    told.receive = lambda: (waited.append(True), raising(TimeoutError("timed out")))
    for _ in range(2):
        with pytest.raises(ShardLost, match="shard 1"):
            sharded.bytes_held()
    assert (len(waited), told.gone) == (1, True)


def test_shards_are_ended_where_their_server_cannot_be_made():
    opened = []

    def opening(plans, weights):
        opened.extend(far(plans, weights))
        opened[-1].told.gone = True
        return opened

    with pytest.raises(ShardLost):
        ShardedServer(WEIGHTS, tardigrad.rule("asgd"), lr=0.1, shards=3, opening=opening)
    assert all(link.told.gone for link in opened)


@pytest.mark.parametrize("asked", ["auto", "compiled"])
def test_where_the_shards_machines_compile_otherwise_commits_are_exact_or_refused(asked):
    sharded = ShardedServer(
        [torch.zeros(1_100_000)], tardigrad.rule("asgd"), lr=0.1, shards=2, opening=far, commit_path=asked
    )
    prepared = []
    for number, shard in enumerate([sharded.links[0].shard, sharded.links[1].told.holder.shard]):

        def prepare(content, compiler=f"g++ 1{number}"):
            prepared.append(content["path"])
            return {"made_by": compiler if content["path"] == "compiled" else ""}

        shard._words["prepare"] = prepare
    if asked == "compiled":
        with pytest.raises(CompileError, match=r"g\+\+ 10; g\+\+ 11"):
            sharded.prepare()
        return
    with pytest.warns(RuntimeWarning, match=r"exact path.*g\+\+ 10; g\+\+ 11"):
        sharded.prepare()
    sharded.prepare()
    assert (sharded.commits.path.name, prepared) == ("exact", ["compiled"] * 2 + ["exact"] * 2)
