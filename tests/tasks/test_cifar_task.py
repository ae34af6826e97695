"""cifar10 and cifar100: which images are trained on, chosen by and reported on, and how they are augmented."""

import os

import pytest
import torch

import tardigrad
from tardigrad.arithmetic import Arithmetic
from tardigrad.data.augmentation import crop_and_flip, normalise
from tardigrad.data.cifar import DEVIATION, MEAN, CifarImages, load_cifar
from tardigrad.errors import InvalidArgument
from tardigrad.evaluation import Evaluator
from tardigrad.models.resnet import ResNet
from tardigrad.records import Lease, Snapshot
from tardigrad.tasks.cifar import cifar10, cifar100
from tardigrad.worker import Worker


def numbered(count, first, classes):
    """Images of 2 x 2 that say in their pixels which one they are."""
    number = torch.arange(first, first + count)
    bytes_of = torch.stack([number // 256**k % 256 for k in range(3)], 1).to(torch.uint8)
    return bytes_of.view(count, 3, 1, 1).expand(count, 3, 2, 2).contiguous(), number % classes


@pytest.fixture
def numbers(monkeypatch):
    """60,000 numbered images in place of the real ones: 0 to 49,999 for training, the others for the test."""

    def load(name):
        classes = 100 if name == "cifar100" else 10
        train, test = numbered(50_000, 0, classes), numbered(10_000, 50_000, classes)
        return CifarImages(*train, *test, classes=tuple(map(str, range(classes))))

    monkeypatch.setattr("tardigrad.tasks.cifar.load_cifar", load)


def which(split):
    """The numbers of a split's images, as a list."""
    weights = torch.tensor([256**k for k in range(3)])
    return (split.inputs[:, :, 0, 0].long() * weights).sum(1).tolist()


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize("make", [cifar10, cifar100])
def test_splits_are_disjoint_and_whole(make):
    task = make()
    train, validation, test = which(task.train), which(task.validation), which(task.test)
    assert [len(train), len(validation), len(test)] == [45_000, 5_000, 10_000]
    assert sorted(train + validation) == list(range(50_000))
    assert test == list(range(50_000, 60_000))
    assert train != sorted(train)  # drawn, not the first ones
    assert (task.train.targets == torch.tensor(train) % len(set(task.test.targets.tolist()))).all()
    assert (task.validation.targets == torch.tensor(validation) % len(set(task.test.targets.tolist()))).all()


@pytest.mark.usefixtures("numbers")
def test_splits_are_the_same_every_time_and_nest():
    whole, again, part = cifar10(), cifar10(), cifar10(train=300)
    assert which(whole.train) == which(again.train)
    assert which(whole.validation) == which(again.validation) == which(part.validation)
    assert which(part.train) == which(whole.train)[:300]
    assert which(cifar10(validation=100).validation) == which(whole.validation)[:100]


@pytest.mark.usefixtures("numbers")
def test_cifar100_is_split_in_its_own_way():
    assert which(cifar10().validation) != which(cifar100().validation)


@pytest.mark.usefixtures("numbers")
def test_without_validation_all_is_trained_on():
    task = cifar10(validation=0)
    assert task.validation is None
    assert sorted(which(task.train)) == list(range(50_000))
    assert list(task.splits()) == ["test"]


@pytest.mark.usefixtures("numbers")
def test_a_run_trains_on_training_images_only(tmp_path, monkeypatch):
    task, seen = cifar10(model="small", train=40, validation=20), []
    monkeypatch.setattr(Worker, "_batch", _looking(Worker._batch, seen))
    config = {"workers": 3, "epochs": 2, "batch_size": 7, "lr": 0.01}
    tardigrad.train(task, directory=tmp_path / "run", **config)
    assert sorted(seen) == sorted(2 * which(task.train))
    assert not set(seen) & set(which(task.validation))


def _looking(batch, seen):
    """Worker._batch, which notes the images that a lease leads to."""

    def look(self, lease):
        order = self._order(lease.epoch)[lease.start : lease.stop]
        seen.extend(torch.tensor(which(self._task.train))[order].tolist())
        return batch(self, lease)

    return look


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"model": "resnet18"}, "model='resnet18' is not one of 'small', 'resnet20'"),
        ({"train": 0}, "train=0 is not an integer from 1 to 50000"),
        ({"train": 2.5}, "train=2.5 is not an integer"),
        ({"validation": -1}, "validation=-1 is not an integer from 0 to 49999"),
        ({"validation": 50_000}, "validation=50000 is not an integer"),
        ({"train": 46_000}, r"cifar10\(train=46000, validation=5000\) asks for 51000 of 50000 images"),
        ({"augment": 1}, "augment=1 is not True or False"),
    ],
)
def test_bad_keywords_are_refused_before_the_data_is_read(keywords, sentence, monkeypatch):
    monkeypatch.setattr("tardigrad.tasks.cifar.load_cifar", lambda name: pytest.fail("the data was read"))
    with pytest.raises(InvalidArgument, match=sentence):
        cifar10(**keywords)


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize(("make", "classes"), [(cifar10, 10), (cifar100, 100)])
def test_models_have_as_many_outputs_as_there_are_classes(make, classes):
    for name in ("small", "resnet20", "resnet32"):
        model = make(model=name).make_model(0)
        assert isinstance(model, ResNet)
        assert model.linear.out_features == classes
    assert len(make(model="resnet32").make_model(0).stages[0]) == 5


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_images_are_normalised_with_their_own_constants(name):
    task = {"cifar10": cifar10, "cifar100": cifar100}[name](augment=False)
    images = task.train.inputs[:5]
    wanted = [(images[:, c].double() / 255 - MEAN[name][c]) / DEVIATION[name][c] for c in range(3)]
    torch.testing.assert_close(task.prepared(images).double(), torch.stack(wanted, 1), rtol=0, atol=1e-6)


# -- augmentation ----------------------------------------------------------------------------------------------


def batches(task, leases, *, seed=0, memory_format="contiguous"):
    """What a worker's model is given for each lease, in the order in which they are computed."""
    worker, seen = Worker(task, seed=seed, arithmetic=Arithmetic(memory_format=memory_format)), []
    worker.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    for lease in leases:
        worker.compute(0, Snapshot(0, [], lease, worker.layout.pack(worker.weights), {}))
    return seen


ONE, OTHER, LATER = Lease(0, 0, 6), Lease(0, 6, 12), Lease(1, 0, 6)


@pytest.mark.usefixtures("numbers")
def test_a_lease_is_augmented_alike_whatever_came_before():
    task = cifar10(model="small", train=40, validation=0)
    first, second = batches(task, [ONE, OTHER])
    torch.manual_seed(99)
    again = batches(task, [LATER, OTHER, ONE, ONE])
    assert torch.equal(again[1], second)
    assert torch.equal(again[2], first)
    assert torch.equal(again[3], first)


@pytest.mark.usefixtures("numbers")
def test_crops_depend_on_seed_epoch_and_lease(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "tardigrad.tasks.cifar.crop_and_flip",
        lambda images, generator: drawn.append(generator.initial_seed()) or crop_and_flip(images, generator),
    )
    task = cifar10(model="small", train=40, validation=0)
    batches(task, [ONE, OTHER, LATER, ONE])
    batches(task, [ONE], seed=1)
    assert drawn[3] == drawn[0]
    assert len(set(drawn)) == 4


@pytest.mark.usefixtures("numbers")
def test_augmentation_can_be_left_out():
    plain = cifar10(model="small", train=40, validation=0, augment=False)
    augmented = cifar10(model="small", train=40, validation=0)
    assert plain.augment is None
    assert which(plain.train) == which(augmented.train)
    unchanged, moved = batches(plain, [ONE])[0], batches(augmented, [ONE])[0]
    order = torch.from_numpy(tardigrad.leases.epoch_permutation(40, 0, 0).copy())[:6]
    assert torch.equal(unchanged, plain.prepared(plain.train.inputs[order]))
    assert moved.shape == unchanged.shape
    assert not torch.equal(moved, unchanged)


@pytest.mark.usefixtures("numbers")
def test_the_memory_format_does_not_change_what_is_cropped():
    task = cifar10(model="small", train=40, validation=0)
    plain, last = batches(task, [ONE])[0], batches(task, [ONE], memory_format="channels_last")[0]
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("numbers")
def test_evaluation_is_not_augmented(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "tardigrad.tasks.cifar.crop_and_flip",
        lambda images, generator: calls.append(len(images)) or crop_and_flip(images, generator),
    )
    task = cifar10(model="small", train=40, validation=20)
    evaluator, worker = Evaluator(task, seed=0), Worker(task, seed=0)
    scores = evaluator.evaluate(worker.layout.pack(worker.weights), worker.buffers)
    assert calls == []
    assert set(scores) == {"validation", "test"}
    worker.compute(0, Snapshot(0, [], ONE, worker.layout.pack(worker.weights), {}))
    assert calls == [6]


# -- the real images -------------------------------------------------------------------------------------------


@pytest.mark.skipif("TARDIGRAD_DATA" not in os.environ, reason="needs CIFAR-10 in the folder that TARDIGRAD_DATA names")
def test_the_real_images(tmp_path):
    task, published = cifar10(model="small", train=200, validation=100), load_cifar("cifar10")
    assert task.train.inputs.shape == (200, 3, 32, 32)
    assert task.train.inputs.dtype == torch.uint8
    assert torch.equal(task.test.inputs, published.test_images)
    every = normalise(published.train_images[:10_000], MEAN["cifar10"], DEVIATION["cifar10"])
    assert every.mean().abs().item() < 0.05
    assert every.std().item() == pytest.approx(1.0, abs=0.05)
    run = tardigrad.train(
        task, rule="dc-asgd", workers=4, epochs=2, batch_size=20, lr=0.1, directory=tmp_path / "run", seed=0
    )
    first, last = run.evaluations[0], run.evaluations[-1]
    assert first.scores["test"]["error"] == pytest.approx(0.9, abs=0.05)
    assert last.scores["validation"]["loss"] < first.scores["validation"]["loss"]
