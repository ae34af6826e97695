"""Hugging Face's Trainer under a session, the real library with a tiny model that is downloaded from nowhere."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from tardigrad.errors import SessionError
from tardigrad.session.alone import AloneSession
from tardigrad.session.randomness import seed_generators
from tardigrad.session.served import ServedSession

sys.path.append(str(Path(__file__).parents[1] / "session"))
from loopback import Loopback


class Points(Dataset):
    def __init__(self, samples):
        generator = torch.Generator().manual_seed(samples)
        self.inputs = torch.randn(samples, 6, generator=generator)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return {"inputs": self.inputs[index], "labels": torch.tensor(index % 3)}


class Stream(IterableDataset):
    def __init__(self, samples):
        self.samples = samples
        self.epochs = []

    def __iter__(self):
        for index in range(self.samples):
            yield {"inputs": torch.full((6,), float(index) / self.samples), "labels": torch.tensor(index % 3)}

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        self.seen = []

    def forward(self, inputs, labels=None):
        if self.training:
            self.seen.append(inputs.detach().clone())
        logits = self.body(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def make(place, *, samples=24, train=None, callbacks=None, **settings):
    standing = {
        "per_device_train_batch_size": 4, "num_train_epochs": 3, "learning_rate": 0.1, "optim": "sgd",
        "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "dataloader_pin_memory": False, "logging_strategy": "no",
    }  # fmt: skip
    arguments = TrainingArguments(output_dir=str(place), **standing | settings)
    torch.manual_seed(0)
    train = Points(samples) if train is None else train
    return Trainer(Net(), arguments, train_dataset=train, eval_dataset=Points(9), callbacks=callbacks)


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def serve(loopback, place, *, worker=0, **settings):
    seed_generators(0)
    session = ServedSession(loopback.link(worker))
    return session, session.prepare(make(place, **settings))


def require_equal(one, other):
    for mine, theirs in zip(one, other, strict=True):
        assert torch.equal(mine, theirs)


def seen(trainer):
    """The samples a trainer has computed, by their place in the data set, in order."""
    rows = torch.cat(trainer.model.seen)
    inputs = trainer.train_dataset.inputs
    return [int((inputs == row).all(1).nonzero()) for row in rows]


class Rival(TrainerCallback):
    """Another worker, which computes batches in between: after so many steps of the first, so many at a time."""

    def __init__(self, loopback, batches, every=1):
        self.loopback, self.batches, self.every = loopback, batches, every
        self.link, self.leases, self.steps = None, [], 0

    def on_step_end(self, args, state, control, **given):
        self.steps += 1
        if self.steps % self.every:
            return
        if self.link is None:
            self.link = self.loopback.link(1)
            self.link.prepare(self.loopback.prepared)
        for _ in range(self.batches):
            lease = self.link.take(int(state.epoch - 1e-6), wait=False)
            if lease is not None:
                self.leases.append(lease)
                self.link.push(leases=[lease], samples=lease.samples, norm=0.0)


def test_without_a_server_it_is_the_plain_trainer(tmp_path):
    plain = make(tmp_path)
    plain.train()
    given = make(tmp_path)
    session = AloneSession()
    assert session.prepare(given) is given
    given.train()
    require_equal(weights(plain), weights(given))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optim": "adamw_torch", "lr_scheduler_type": "linear", "warmup_steps": 4, "weight_decay": 0.1},
        {"gradient_accumulation_steps": 2, "samples": 22, "max_grad_norm": 0.1, "lr_scheduler_type": "linear"},
        {"gradient_accumulation_steps": 4, "lr_scheduler_type": "cosine", "samples": 32},
        {"bf16": True},
        {"max_steps": 8},
        {"num_train_epochs": 1.5, "samples": 22},
        {"dataloader_drop_last": True, "samples": 23},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "num_train_epochs": 2},
        {"eval_strategy": "steps", "eval_steps": 4, "logging_strategy": "steps", "logging_steps": 3},
    ],
    ids=str,
)
def test_one_worker_is_the_plain_trainer_bit_for_bit(tmp_path, settings):
    plain = make(tmp_path, **settings)
    plain.train()
    loopback = Loopback()
    session, served = serve(loopback, tmp_path, **settings)
    served.train()
    session.close()
    assert seen(plain) == seen(served)
    require_equal(weights(plain), weights(served))
    dropped = ("train_runtime", "eval_runtime")
    for one, other in zip(plain.state.log_history, served.state.log_history, strict=True):
        if not set(one) & set(dropped):
            assert one == other


def test_with_the_trainers_own_fused_optimizer_one_worker_agrees_to_rounding(tmp_path):
    plain = make(tmp_path, optim="adamw_torch_fused", learning_rate=0.01)
    plain.train()
    _session, served = serve(Loopback(), tmp_path, optim="adamw_torch_fused", learning_rate=0.01)
    served.train()
    for mine, theirs in zip(weights(plain), weights(served), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulated", [1, 2, 3])
@pytest.mark.parametrize("batches", [1, 2])
def test_no_sample_is_computed_twice_and_none_is_left(tmp_path, accumulated, batches):
    loopback = Loopback(workers=2)
    rival = Rival(loopback, batches)
    session, served = serve(
        loopback, tmp_path, samples=46, gradient_accumulation_steps=accumulated, callbacks=[rival]
    )  # fmt: skip
    served.train()
    session.close()
    finished = [lease for push in loopback.pushes for lease in push["leases"]]
    for epoch in range(3):
        places = [place for lease in finished if lease.epoch == epoch for place in range(lease.start, lease.stop)]
        assert sorted(places) == list(range(46))
    assert rival.leases
    mine = [push for push in loopback.pushes if push["worker"] == 0]
    assert len(seen(served)) == sum(push["samples"] for push in mine)
    assert all(len(push["leases"]) <= accumulated for push in mine)


class Keeping(TrainerCallback):
    """Keeps each step's gradient, and beside it the mean gradient of the batches that it is of."""

    def __init__(self, trainer):
        self.trainer, self.batches, self.pairs = trainer, 0, []

    def on_pre_optimizer_step(self, args, state, control, *, model, **given):
        inputs = torch.cat(model.seen[self.batches :])
        self.batches = len(model.seen)
        labels = torch.tensor([place % 3 for place in seen(self.trainer)[-len(inputs) :]])
        loss = nn.functional.cross_entropy(model.body(inputs), labels)
        self.pairs.append((model.body[0].weight.grad.clone(), torch.autograd.grad(loss, model.body[0].weight)[0]))


def test_a_part_of_a_step_at_the_end_of_a_part_of_an_epoch_is_the_mean_of_its_batches(tmp_path):
    """Three batches of six are this worker's: a step of two, and one of the third alone, undivided."""
    loopback = Loopback(workers=2)
    settings = {"gradient_accumulation_steps": 2, "num_train_epochs": 1, "max_grad_norm": 0.0}
    session, served = serve(loopback, tmp_path, callbacks=[Rival(loopback, 3)], **settings)
    served.model.body[2].p = 0.0
    keeping = Keeping(served)
    served.add_callback(keeping)
    served.train()
    session.close()
    assert [push["samples"] for push in loopback.pushes if push["worker"] == 0] == [8, 4]
    for gradient, expected in keeping.pairs:
        torch.testing.assert_close(gradient, expected)


def test_a_worker_that_gets_nothing_in_an_epoch_goes_on_to_the_next(tmp_path):
    loopback = Loopback(workers=2)
    rival = Rival(loopback, 100, every=6)  # when this worker has done an epoch, the other does the next at once

    def ahead(args, state, control, **given):
        if state.global_step == 6:
            while (lease := rival.link.take(1, wait=False)) is not None:
                rival.link.push(leases=[lease], samples=lease.samples, norm=0.0)

    session, served = serve(loopback, tmp_path, callbacks=[rival])
    rival.link = loopback.link(1)
    rival.link.prepare(loopback.prepared)
    rival.on_epoch_end = ahead
    served.train()
    session.close()
    assert len(seen(served)) == 2 * 24
    assert served.state.global_step == 12


def test_a_worker_that_is_started_again_begins_where_the_run_is(tmp_path):
    loopback = Loopback(workers=2, epoch=1)
    ended = []

    class Counting(TrainerCallback):
        def on_epoch_end(self, args, state, control, **given):
            ended.append(state.epoch)

    session, served = serve(loopback, tmp_path, callbacks=[Counting()])
    rival = loopback.link(1)
    rival.prepare(loopback.prepared)
    while (lease := rival.take(0, wait=False)) is not None:
        rival.push(leases=[lease], samples=lease.samples, norm=0.0)
    served.train()
    session.close()
    assert len(ended) == 2
    assert len(seen(served)) == 2 * 24


def test_evaluation_is_the_first_workers_and_of_the_servers_weights(tmp_path):
    loopback = Loopback(workers=2)
    session, served = serve(loopback, tmp_path, eval_strategy="epoch", num_train_epochs=1)
    served.train()
    scores = served.evaluate()
    assert set(scores) >= {"eval_loss", "eval_runtime"}
    assert loopback.scores == [{"version": 6, "eval": {"loss": scores["eval_loss"]}}] * 2
    other, idle = serve(loopback, tmp_path, worker=1)
    assert idle.evaluate() == {}
    assert len(loopback.scores) == 2
    assert not other.is_first
    assert session.is_first


def test_files_and_printed_lines_are_the_first_workers(tmp_path, capsys):
    loopback = Loopback(workers=2)
    settings = {
        "logging_strategy": "steps", "logging_steps": 2, "save_strategy": "epoch", "num_train_epochs": 1,
        "eval_strategy": "epoch", "load_best_model_at_end": True,
    }  # fmt: skip
    _session, first = serve(loopback, tmp_path / "first", **settings)
    first.train()
    assert "grad_norm" in capsys.readouterr().out
    assert [sorted(values) for values in loopback.logged[:3]] == [["epoch", "grad_norm", "learning_rate", "loss"]] * 3
    assert (tmp_path / "first" / "checkpoint-6" / "model.safetensors").exists()
    assert not (tmp_path / "first" / "checkpoint-6" / "optimizer.pt").exists()
    logged = len(loopback.logged)
    _other, second = serve(loopback, tmp_path / "second", worker=1, **settings)
    second.train()
    second.save_model()
    assert capsys.readouterr().out == ""
    assert len(loopback.logged) == logged
    assert not list((tmp_path / "second").glob("*"))


def test_a_stream_is_shared_by_batches(tmp_path):
    data = Stream(40)
    taken = []
    for worker in (0, 1):
        loopback = Loopback(workers=2)
        session, served = serve(loopback, tmp_path, worker=worker, train=data, max_steps=5)
        served.train()
        session.close()
        taken += [round(40 * value) for batch in served.model.seen for value in batch[:, 0].tolist()]
        assert loopback.leases is None
        assert [push["samples"] for push in loopback.pushes] == [4] * 5
    assert sorted(taken) == list(range(40))
    assert set(data.epochs) == {0}


class Own(Trainer):
    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(self.train_dataset, batch_sampler=[[0, 1]], collate_fn=self.data_collator)


def test_what_a_worker_cannot_do_gets_a_sentence(tmp_path):
    session = ServedSession(Loopback(workers=2).link())
    settings = [
        ({"auto_find_batch_size": True}, "auto_find_batch_size: give per_device_train_batch_size"),
        ({"dataloader_in_order": False, "dataloader_num_workers": 1}, "in_order=False"),
        ({"callbacks": [EarlyStoppingCallback()]}, "EarlyStoppingCallback"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}, "follows a metric"),
    ]
    for given, sentence in settings:
        with pytest.raises(SessionError, match=sentence):
            session.prepare(make(tmp_path, **given))
    own = make(tmp_path)
    own.__class__ = Own
    with pytest.raises(SessionError, match="data loader has a list"):
        session.prepare(own)
    made = Trainer(model_init=Net, args=make(tmp_path).args, train_dataset=Points(8))
    with pytest.raises(SessionError, match="model_init: give the Trainer a model="):
        session.prepare(made)


def test_a_checkpoint_of_the_trainers_own_is_refused(tmp_path):
    _session, served = serve(Loopback(), tmp_path)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(SessionError, match="resume_from_checkpoint"):
        served._init_training_state(6, 6, 1, str(tmp_path / "checkpoint-1"), None)


def test_training_twice_is_refused(tmp_path):
    _session, served = serve(Loopback(), tmp_path, num_train_epochs=1)
    served.train()
    with pytest.raises(SessionError, match="a session trains once"):
        served.train()


def test_a_step_that_half_precision_skipped_gives_its_samples_back(tmp_path):
    loopback = Loopback()
    session, served = serve(loopback, tmp_path, num_train_epochs=1)
    optimizer_step = []

    def overflowing(*given):
        """As accelerate's optimizer does after an overflow: the server's is not stepped, and it says so."""
        optimizer_step.append(1)
        served.optimizer._is_overflow = len(optimizer_step) == 2
        return None if len(optimizer_step) == 2 else served.optimizer.optimizer.step()

    class Breaking(TrainerCallback):
        def on_train_begin(self, args, state, control, **given):
            served.optimizer.step = overflowing

    served.add_callback(Breaking())
    served.train()
    session.close()
    assert [skipped for _leases, skipped in loopback.returned] == [True]
    finished = sorted(place for push in loopback.pushes for lease in push["leases"] for place in range(*_span(lease)))
    assert finished == list(range(24))


def _span(lease):
    return lease.start, lease.stop
