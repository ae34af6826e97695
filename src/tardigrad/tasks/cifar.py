"""``cifar10`` and ``cifar100``: photographs of 32 x 32 in 10 or 100 classes, and the ResNets of the paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tardigrad.data.augmentation import crop_and_flip, normalise
from tardigrad.data.cifar import DEVIATION, MEAN, load_cifar
from tardigrad.errors import InvalidArgument
from tardigrad.hyperparameters import require_choice, require_flag, require_integer
from tardigrad.models.resnet import DEPTHS, cifar_resnet, small_resnet
from tardigrad.seeding import random_stream
from tardigrad.tasks.base import ERROR, Split, Task

_TRAINING = 50_000
MODELS = ("small", *(f"resnet{depth}" for depth in DEPTHS))


def cifar10(
    *, model: str = "resnet20", train: int | None = None, validation: int = 5_000, augment: bool = True
) -> Task:
    """CIFAR-10 and a ResNet.

    Args:
        model: resnet20, resnet32, resnet44, resnet56, resnet110, or small (19,218 parameters, for CPUs).
        train: images to train on; None: all that validation leaves.
        validation: images of the official training set to choose on, never trained on; 0 trains on all 50,000, and
            leaves nothing to choose by.
        augment: pad 4, crop and flip training images (He et al. 2016, section 4.2).
    """
    return _task("cifar10", model, train, validation, augment)


def cifar100(
    *, model: str = "resnet20", train: int | None = None, validation: int = 5_000, augment: bool = True
) -> Task:
    """CIFAR-100 and a ResNet; the keywords are those of cifar10."""
    return _task("cifar100", model, train, validation, augment)


def _task(name: Literal["cifar10", "cifar100"], model: str, train: int | None, validation: int, augment: bool) -> Task:
    """The task; which images are for validation, and which are trained on, is the same for every run."""
    require_integer(name, "validation", validation, low=0, high=_TRAINING - 1)
    size = _TRAINING - validation if train is None else require_integer(name, "train", train, low=1, high=_TRAINING)
    if size + validation > _TRAINING:
        raise InvalidArgument(
            f"{name}(train={size}, validation={validation}) asks for {size + validation} of {_TRAINING} images."
        )
    require_flag(name, "augment", augment)
    make = _model(name, model)
    images = load_cifar(name)
    order = torch.from_numpy(random_stream(0, f"{name} split").permutation(_TRAINING))

    def part(index: Tensor) -> Split:
        return Split(images.train_images[index], images.train_labels[index])

    return Task(
        name=name,
        model=make,
        loss=functional.cross_entropy,
        metric=ERROR,
        train=part(order[validation : validation + size]),
        validation=part(order[:validation]) if validation else None,
        test=Split(images.test_images, images.test_labels),
        prepare=partial(normalise, mean=MEAN[name], deviation=DEVIATION[name]),
        augment=crop_and_flip if augment else None,
    )


def _model(name: str, model: str) -> Callable[[], nn.Module]:
    require_choice(name, "model", model, MODELS)
    classes = 100 if name == "cifar100" else 10
    if model == "small":
        return partial(small_resnet, classes=classes)
    return partial(cifar_resnet, int(model.removeprefix("resnet")), classes=classes)
