"""The processes of one worker: what they ask together, who computes what, and the mean over a lease."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loopback import served
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from tardigrad.errors import SessionError
from tardigrad.layout import FlatLayout
from tardigrad.records import Lease
from tardigrad.session.averaging import GroupBook, averaged
from tardigrad.session.group import GroupedLink, LeaderLink, MemberLink, shares
from tardigrad.session.link import Group, Prepared
from tardigrad.session.served import ServedSession
from tardigrad.transports.requests import Wire
from tardigrad.transports.slots import Slot, SlotLayout, ends

LIFE = {"worker": 3, "workers": 4, "incarnation": 0, "seed": 0}
RELEASED = {
    "version": 5, "samples": 40, "rates": [0.1], "refused": "", "first": True, "fault": "raise", "wants_state": True,
}  # fmt: skip


class Circle:
    """A group whose processes are threads, and a server that answers as told and remembers what it was asked."""

    def __init__(self, group, answers=None):
        self.asked, self._answers = [], answers or {}
        self._server, own = map(Wire, ends())
        pairs = [tuple(map(Wire, ends())) for _ in range(group - 1)]
        leader = LeaderLink(own, [mine for mine, _ in pairs], **LIFE)
        self.links = [leader] + [
            MemberLink(theirs, rank=rank, group=group, **LIFE) for rank, (_, theirs) in enumerate(pairs, start=1)
        ]
        self.wires = [own, *(theirs for _, theirs in pairs)]

    def together(self, *calls):
        """Let process k do ``calls[k]`` (or all of them the only one); what came of each, errors too."""
        calls = calls if len(calls) > 1 else calls * len(self.links)
        with ThreadPoolExecutor(len(calls) + 1) as threads:
            serving = threads.submit(self._serve)
            found = [threads.submit(call, link) for call, link in zip(calls, self.links, strict=True)]
            results = [each.exception() or each.result() for each in found]
            self.wires[0]._end.shutdown(socket.SHUT_WR)
            serving.result()
        return results

    def _serve(self):
        while True:
            try:
                word, content, _ = self._server.receive()
            except EOFError:
                return
            self.asked.append((word, content))
            answer, content, returned = self._answers.get(word, ("ok", {}, []))
            self._server.send(answer, content, returned)


def push(link, *, loss=None, start=0):
    return link.push(leases=[Lease(0, start, start + 3)], samples=3, norm=1.0, loss=loss, absent=[1])


# -- words ----------------------------------------------------------------------------------------------------


def test_what_all_ask_reaches_the_server_once():
    circle = Circle(3, {"take": ("lease", {"lease": [0, 8, 16], "released": None}, [])})

    def calls(link):
        link.epochs(4)
        lease = link.take(0, wait=False)
        link.finish()
        return lease

    assert circle.together(calls) == [Lease(0, 8, 16)] * 3
    assert [word for word, _ in circle.asked] == ["epochs", "take", "finish"]


def test_what_is_told_once_is_told_by_the_leader():
    circle = Circle(3)

    def calls(link):
        link.give_back([Lease(0, 0, 8)], skipped=True)
        link.log({"loss": 1.0})
        link.evaluated({"test": {"score": 1.0}}, seconds=0.0)
        link.save({"a": 1})
        link.give_back([Lease(0, 8, 16)])  # nothing is asked any more: it comes back with the worker's end

    circle.together(calls)
    assert [word for word, _ in circle.asked] == ["back", "log", "scores", "save"]


def test_all_hear_of_new_weights_and_the_leader_of_what_is_meant_for_one():
    circle = Circle(2, {"refresh": ("released", RELEASED, [])})
    leader, member = circle.together(lambda link: link.refresh())
    assert (leader.version, leader.samples, leader.first) == (member.version, member.samples, member.first)
    assert (leader.fault, leader.wants_state) == ("raise", True)
    assert (member.fault, member.wants_state) == ("", False)


def test_weights_read_while_waiting_reach_every_process():
    circle = Circle(2, {"take": ("lease", {"lease": None, "released": RELEASED}, [])})
    heard = []
    for link in circle.links:
        link.renewed = heard.append
    circle.together(lambda link: link.take(1, wait=True))
    assert [released.version for released in heard] == [5, 5]


def test_the_loss_of_a_push_is_the_mean_over_the_samples():
    """Two samples with loss 1 and one with loss 4."""
    circle = Circle(2, {"push": ("released", {**RELEASED, "fault": ""}, [])})
    circle.together(lambda link: push(link, loss=1.0), lambda link: push(link, loss=4.0))
    assert circle.asked[0][1]["loss"] == pytest.approx(2.0)


def test_a_refusal_of_the_server_is_raised_in_every_process():
    circle = Circle(3, {"epochs": ("refused", {"message": "another number"}, [])})
    results = circle.together(lambda link: link.epochs(2))
    assert [(type(each), str(each)) for each in results] == [(SessionError, "another number")] * 3


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (lambda link: link.epochs(2), lambda link: link.epochs(3), "epochs: number is 3 there and 2 in process 0"),
        (
            lambda link: link.take(0, wait=False),
            lambda link: link.finish(),
            "asks 'finish' where process 0 asks 'take'",
        ),
        (push, lambda link: push(link, start=3), "push: leases is"),
    ],
)
def test_processes_that_part_are_told_so(one, other, words):
    circle = Circle(2)
    for each in circle.together(one, other):
        assert isinstance(each, SessionError)
        assert words in str(each)
        assert "process 1 of worker 3" in str(each)
    assert circle.asked == []


def test_counts_are_exchanged_without_the_server():
    circle = Circle(3)
    assert circle.together(*(lambda link, n=n: link.count(n) for n in (4, 3, 0))) == [[4, 3, 0]] * 3
    assert circle.asked == []


@pytest.mark.parametrize(
    ("places", "backend"),
    [(("cpu", "cpu"), "gloo"), (("cuda:0", "cuda:1"), "nccl"), (("cuda:0", "cuda:0"), "gloo")],
)
def test_processes_meet_in_a_store_and_know_what_carries_tensors(places, backend):
    circle = Circle(2)
    (one, first), (other, second) = circle.together(*(lambda link, p=p: link.meet(torch.device(p)) for p in places))
    assert (first, second) == (backend, backend)
    one.set("key", "value")
    assert other.get("key") == b"value"


def test_down_is_one_memory_for_all_and_up_is_the_leaders():
    weights = [torch.ones(2, 3)]
    layout = FlatLayout.of(weights, ["w"])
    buffers = {"mean": torch.zeros(4)}
    slots = [Slot.make(SlotLayout.of(layout, buffers), name) for name in ("down", "up")]
    answer = {"epoch": 2, "released": RELEASED}
    circle = Circle(2, {"prepare": ("welcome", answer, [slot.descriptor for slot in slots])})
    given = Prepared(layout, (Group(1, "sgd", 0.1),), weights, buffers, 8, 4)
    leader, member = circle.together(lambda link: link.prepare(given))
    slots[0].flat.fill_(7.0)
    assert leader.weights.eq(7.0).all()
    assert member.weights.eq(7.0).all()
    member.gradient.fill_(1.0)
    member.returned["mean"].fill_(1.0)
    assert slots[1].flat.eq(0.0).all()
    assert slots[1].buffers["mean"].eq(0.0).all()
    leader.gradient.fill_(2.0)
    assert slots[1].flat.eq(2.0).all()
    assert len(circle.asked) == 1


def test_processes_that_prepare_different_things_are_told_so():
    def prepare(link):
        weights = [torch.zeros(2 + link.rank)]
        return link.prepare(Prepared(FlatLayout.of(weights, ["w"]), (Group(1, "sgd", 0.1),), weights, {}, 8, 4))

    for each in Circle(2).together(prepare):
        assert isinstance(each, SessionError)
        assert "differs in prepare: " in str(each)


def test_the_end_of_one_process_is_the_end_of_all():
    circle = Circle(2)
    gone = RuntimeError("Connection closed by peer")
    assert not any(isinstance(link, GroupedLink) and link.bereft(ValueError()) for link in circle.links)
    circle.wires[1].close()  # process 1 ends
    assert circle.links[0].bereft(gone)
    assert not circle.links[0].bereft(ValueError("the script's own"))
    (found,) = [each for each in circle.together(lambda link: link.epochs(1), lambda link: None) if each]
    assert isinstance(found, SystemExit)
    assert circle.asked == []


# -- who computes what ----------------------------------------------------------------------------------------


def book(rank, group, counts=()):
    link = SimpleNamespace(rank=rank, group=group, count=lambda samples: list(counts))
    return GroupBook([nn.Parameter(torch.zeros(1))], fed=True, link=link)


@given(samples=st.integers(1, 40), group=st.integers(2, 7), start=st.integers(0, 100))
def test_parts_of_a_lease_are_a_partition_as_equal_as_can_be(samples, group, start):
    lease = Lease(0, start, start + samples)
    counts = shares(lease, group)
    assert sum(counts) == samples
    assert max(counts) - min(counts) <= 1
    parts = [book(rank, group).part(lease) for rank in range(group)]
    computed = [place for rank in range(group) if counts[rank] for place in range(*parts[rank])]
    assert computed == list(range(lease.start, lease.stop))
    assert all(parts[rank] == (start, start + 1) for rank in range(group) if not counts[rank])  # never nothing


def yielded(own, *leases):
    for lease in leases:
        own.took(lease)
        own.yielded()


def test_a_gradient_counts_by_the_samples_it_was_computed_on():
    """Of 3 samples process 0 has 2; of 1 it has all, and process 1 counts nothing."""
    for rank, weights in ((0, (2 / 3, 1.0)), (1, (1 / 3, 0.0))):
        own = book(rank, 2)
        yielded(own, Lease(0, 0, 3), Lease(0, 3, 4))
        assert own.weight == weights[0]  # the first pass is on the first batch, though the second is there already
        own.passed()
        assert own.weight == weights[1]
        own.passed()
        assert own.weight == weights[1]  # a second loss of the last batch
        own.backward()
        own.for_push()
        yielded(own, Lease(0, 4, 7), Lease(0, 7, 8))
        assert own.weight == weights[0]  # it begins anew


def test_a_gradient_that_was_thrown_away_is_computed_from_its_first_batch_on():
    own, weight = book(1, 2), nn.Parameter(torch.zeros(1))
    own = GroupBook([weight], fed=True, link=own.link)
    yielded(own, Lease(0, 0, 3), Lease(0, 3, 4))
    for _ in range(2):
        own.passed()
    weight.grad = torch.ones(1)
    own.zeroed()
    assert own.weight == 1 / 3


def test_without_batches_of_a_loader_all_count_alike():
    assert book(1, 4).weight == 0.25


def test_a_stream_counts_by_its_own_batches_and_ends_with_the_first():
    own = book(1, 3, counts=(4, 3, 1))
    assert own.agreed(3) == 8
    own.counted(8)
    assert own.weight == 3 / 8
    assert book(1, 3, counts=(4, 0, 1)).agreed(None) is None


def test_a_gradient_that_was_not_averaged_is_refused():
    own = book(0, 2)
    yielded(own, Lease(0, 0, 3))
    own.backward()
    with pytest.raises(SessionError, match="not averaged over this worker's processes"):
        own.for_push()


@pytest.mark.parametrize("wrapped", [nn.DataParallel, nn.Identity])
def test_a_model_that_is_wrapped_already_is_refused(wrapped):
    def main(session):
        model = wrapped(nn.Linear(2, 2))
        session.prepare(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))

    if wrapped is nn.Identity:
        served(main)
    else:
        with pytest.raises(SessionError, match="wrapped in DistributedDataParallel or DataParallel already"):
            served(main)


def test_a_trainer_of_transformers_wants_workers_of_one_process():
    class Trainer:
        __module__ = "transformers.trainer"

    session = ServedSession(Circle(2).links[1])
    assert (session.rank, session.group, session.is_first) == (1, 2, False)
    with pytest.raises(SessionError, match="a worker of one process"):
        session.prepare(Trainer())


# -- the mean -------------------------------------------------------------------------------------------------


class Net(nn.Module):
    name_of_its_own = "net"

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.unused = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, inputs):
        return self.layer(inputs)


def test_gradients_are_means_over_the_lease_and_the_rest_of_the_model_is_its_own(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(5, 3, generator=generator), torch.tensor([0, 1, 1, 0, 1])
    plain, lease = Net(), Lease(0, 0, 5)
    cross_entropy(plain(inputs), labels).backward()
    models = [Net(), Net()]

    def process(link):
        own = GroupBook(list(models[link.rank].parameters()), fed=True, link=link)
        model = averaged(models[link.rank], own, torch.device("cpu"))
        yielded(own, lease)
        part = slice(*own.part(lease))
        cross_entropy(model(inputs[part]), labels[part]).backward()
        return model

    averaged_models = Circle(2).together(process)
    for model in averaged_models:
        assert_close(model.layer.weight.grad, plain.layer.weight.grad, rtol=1e-6, atol=1e-7)
        assert model.unused.weight.grad is None  # as in torch.optim, it is passed over
        assert model.name_of_its_own == "net"
        with pytest.raises(AttributeError, match="no_such_thing"):
            model.no_such_thing  # noqa: B018
    monkeypatch.delattr("torch.nn.parallel.DistributedDataParallel.forward")
    with torch.no_grad():  # one process alone may look at the model: nobody is asked for anything
        assert torch.equal(averaged_models[0](inputs), models[0](inputs))


def test_nothing_is_left_in_folders_by_processes_that_met(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Circle(2).together(lambda link: link.meet(torch.device("cpu"))[0].set("key", "value"))
    assert os.listdir(tmp_path) == []
