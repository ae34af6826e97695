"""A mistake in a script gets a sentence that says what was done and what to write instead."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from loopback import alone, served
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tardigrad.errors import InvalidArgument, SessionError
from tardigrad.session import mistakes, preparing

DATA = TensorDataset(torch.randn(12, 4), torch.randint(0, 3, (12,)))


def network():
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def prepared(session, net=None, make=sgd, **keywords):
    net = net or network()
    return session.prepare(net, make(net), DataLoader(DATA, batch_size=4), **keywords)


def backward(net, batch=None):
    inputs, labels = batch or DATA[:4]
    cross_entropy(net(inputs), labels).backward()


def looping(after_backward=None, *, before=None, make=sgd, net=None, **keywords):
    """A script that does something in its first step."""

    def main(session):
        model, optimizer, loader = prepared(session, net() if net else None, make, **keywords)
        if before:
            before(session, model, optimizer)
        for batch in loader:
            optimizer.zero_grad()
            backward(model, batch)
            if after_backward:
                after_backward(session, model, optimizer)
            optimizer.step()

    return main


def partly_frozen():
    net = network()
    net[0].weight.requires_grad_(False)
    return net


def set_rate(session, net, optimizer):
    optimizer.param_groups[0]["lr"] = 0.01


def scheduled(session, net, optimizer):
    torch.optim.lr_scheduler.StepLR(optimizer, step_size=1).step()


def stepping_a_scheduler_of_its_own(session):
    net = network()
    optimizer = sgd(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
    for batch in loader:
        optimizer.zero_grad()
        backward(net, batch)
        optimizer.step()
        scheduler.step()


def set_decay(session, net, optimizer):
    optimizer.param_groups[0]["weight_decay"] = 0.5


def step_without_backward(session):
    _, optimizer, loader = prepared(session)
    for _ in loader:
        optimizer.zero_grad()
        optimizer.step()


def step_with_a_gradient_of_zeros(session):
    net, optimizer, loader = prepared(session)
    for number, batch in enumerate(loader):
        optimizer.zero_grad(set_to_none=False)
        if number == 0:
            backward(net, batch)
        optimizer.step()


def step_without_a_second_backward(session):
    net, optimizer, loader = prepared(session)
    for number, batch in enumerate(loader):
        if number == 0:
            backward(net, batch)
        optimizer.step()


def over_the_loader_it_gave(session):
    net, loader = network(), DataLoader(DATA, batch_size=4)
    net, optimizer, _ = session.prepare(net, sgd(net), loader)
    for batch in loader:
        optimizer.zero_grad()
        backward(net, batch)
        optimizer.step()


def two_steps_for_a_batch(session):
    net, optimizer, loader = prepared(session)
    for batch in loader:
        for _ in range(2):
            optimizer.zero_grad()
            backward(net, batch)
            optimizer.step()


def sparse():
    return nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))


def sparse_gradients(session):
    net = sparse()
    net, optimizer, loader = session.prepare(net, sgd(net), DataLoader(DATA, batch_size=4))
    for _ in loader:
        net(torch.ones(4, 2, dtype=torch.int64)).sum().backward()
        optimizer.step()


def replaced_module(session, net, optimizer):
    net[2] = nn.Linear(5, 3)


def replaced_in_the_group(session, net, optimizer):
    optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.zeros(5, 4))


def mixed():
    net = network()
    net[2].double()
    return net


def evaluated_in_the_middle(session, net, optimizer):
    session.evaluate(lambda net: 0.0)


def accumulating(session):
    net, optimizer, loader = prepared(session, accumulate=2)
    for batch in loader:
        optimizer.zero_grad()
        backward(net, batch)
        optimizer.step()
        session.evaluate(lambda net: 0.0)


def meta():
    with torch.device("meta"):
        return network()


def on_two_devices(session):
    parts = [
        SimpleNamespace(device=torch.device(device), dtype=torch.float32, is_meta=False) for device in ("cuda:1", "cpu")
    ]
    preparing.require_storable([("a", parts[0]), ("b", parts[1])], session.device)


def with_scheduler(session, **keywords):
    net = network()
    optimizer = sgd(net)
    session.prepare(net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=1), **keywords)


def save_twice(session):
    for _ in range(2):
        session.save_with("thing", save=int, load=print)


def written_in_evaluation(session):
    prepared(session)
    session.evaluate(lambda net: net.load_state_dict(net.state_dict()) and 0.0)


MISTAKES = {
    "unknown_object": [
        lambda s: s.prepare(network(), [1]),
        lambda s: s.prepare(network(), torch.amp.GradScaler("cpu")),
    ],
    "given_twice": [lambda s: s.prepare(DataLoader(DATA), DataLoader(DATA))],
    "not_given": [lambda s: s.prepare(network()), lambda s: s.prepare(sgd(network()), DataLoader(DATA))],
    "prepared_twice": [lambda s: (prepared(s), prepared(s))],
    "not_prepared": [lambda s: s.epochs(2), lambda s: s.evaluate(lambda net: 0.0)],
    "not_made_yet": [
        lambda s: prepared(s, meta()),
        lambda s: prepared(s, nn.Sequential(nn.LazyLinear(3))),
    ],
    "several_devices": [on_two_devices],
    "wrong_device": [lambda s: (setattr(s, "device", torch.device("cuda:0")), prepared(s))],
    "not_storable": [lambda s: prepared(s, network().bfloat16()), lambda s: prepared(s, mixed())],
    "load_state": [
        looping(before=lambda s, n, o: o.load_state_dict({"state": {0: {"x": 1}}, "param_groups": o.param_groups}))
    ],
    "group_added": [
        looping(before=lambda s, n, o: o.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})),
        looping(before=lambda s, n, o: o.param_groups.append({"params": [nn.Parameter(torch.zeros(2))]})),
    ],
    "no_backward": [step_without_backward, step_without_a_second_backward, step_with_a_gradient_of_zeros],
    "stepped_twice": [looping(lambda s, n, o: o.step()), looping(lambda s, n, o: o.step(), accumulate=3)],
    "no_batch": [over_the_loader_it_gave, two_steps_for_a_batch],
    "gradients_are_sparse": [sparse_gradients],
    "moved": [
        looping(lambda s, n, o: n.double()),
        looping(lambda s, n, o: setattr(n[0].weight, "data", torch.zeros(7))),
        looping(lambda s, n, o: setattr(n[0].bias, "data", torch.zeros(5))),
        looping(lambda s, n, o: setattr(n[0].weight, "data", n[0].weight.data.view(-1))),
    ],
    "written": [
        looping(before=lambda s, n, o: n.load_state_dict(network().state_dict())),
        looping(lambda s, n, o: nn.init.zeros_(n[0].weight)),
        written_in_evaluation,
    ],
    "replaced": [looping(before=replaced_module), looping(replaced_in_the_group)],
    "unfrozen": [looping(before=lambda s, n, o: n.requires_grad_(True), net=partly_frozen)],
    "rate_changed": [looping(before=set_rate), looping(set_rate), looping(scheduled), stepping_a_scheduler_of_its_own],
    "setting_changed": [looping(before=set_decay)],
    "in_the_middle": [looping(evaluated_in_the_middle), accumulating],
    "not_scores": [lambda s: (prepared(s), s.evaluate(lambda net: None)), lambda s: (prepared(s), s.evaluate(str))],
    "not_a_number": [
        lambda s: s.log(x="a"),
        lambda s: (prepared(s), s.evaluate(lambda net: {"x": torch.zeros(3)})),
    ],
    "saved_twice": [save_twice],
    "no_epoch_without_a_loader": [with_scheduler],
}
OF_GROUPS = {"no_trainer_in_a_group", "not_averaged", "parallel_already"}  # for the tests of groups
EVERY = [(name, script) for name, scripts in MISTAKES.items() for script in scripts]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "script"), EVERY, ids=[f"{name}-{n}" for n, (name, _) in enumerate(EVERY)])
def test_a_mistake_is_refused_with_its_sentence(name, script, monkeypatch):
    made = []
    for each in MISTAKES:
        original = getattr(mistakes, each)
        monkeypatch.setattr(mistakes, each, lambda *a, each=each, o=original: (made.append(each), o(*a))[1])
    with pytest.raises(SessionError, match=r"\w{3}.*[.;:]") as raised:
        served(script)
    assert made == [name]
    assert str(raised.value).endswith(".")


def test_every_sentence_is_provoked_above():
    functions = {name for name, _ in inspect.getmembers(mistakes, inspect.isfunction) if not name.startswith("_")}
    assert functions == set(MISTAKES) | OF_GROUPS


@pytest.mark.parametrize("keywords", [{"accumulate": 0}, {"schedule": "batch"}, {"epochs": 0}])
def test_values_outside_their_ranges_are_refused(keywords):
    for run in (alone, served):
        with pytest.raises(InvalidArgument, match=r"session\.prepare: "):
            run(lambda session: prepared(session, **keywords))


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_mistake():
    """Frozen after it was prepared; a state without anything in it; a gradient begun after the last loop."""

    def main(session):
        net, optimizer, loader = prepared(session)
        optimizer.load_state_dict(optimizer.state_dict())
        for _ in session.epochs(2):
            for batch in loader:
                optimizer.zero_grad()
                backward(net, batch)
                optimizer.step()
            net[0].requires_grad_(False)
            backward(net)
            session.evaluate(lambda net: 0.0)

    loopback = served(main)
    assert [len(push["absent"]) for push in loopback.pushes] == [0, 0, 0, 2, 2, 2]


def test_a_parameter_that_is_not_the_models_travels_too():
    free = nn.Parameter(torch.ones(3))

    def main(session):
        net = network()
        optimizer = torch.optim.SGD([{"params": net.parameters()}, {"params": [free]}], lr=0.1)
        net, optimizer, loader = session.prepare(net, optimizer, DataLoader(DATA, batch_size=4))
        for batch in loader:
            optimizer.zero_grad()
            (cross_entropy(net(batch[0]), batch[1]) * free.sum()).backward()
            optimizer.step()

    assert served(main).prepared.layout.names[-1] == "group1.0"
    assert not torch.equal(free, torch.ones(3))
