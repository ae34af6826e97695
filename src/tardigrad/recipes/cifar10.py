"""CIFAR-10: a ResNet of seconds for CPUs, and the ResNet-20 of the paper."""

from __future__ import annotations

from tardigrad.config import RunConfig


def cifar10_small() -> RunConfig:
    """Half of CIFAR-10 and a small ResNet, 2 epochs: half a minute on one core, nothing a GPU is needed for.

    8 workers, batch 32, learning rate 0.5, a tenth of it from epoch 1.25. For sequential SGD that rate is as good as
    any from 0.2 to 1.
    """
    return RunConfig(
        task="cifar10(model='small', train=25000, augment=False)",
        workers=8,
        batch_size=32,
        epochs=2,
        lr=0.5,
        schedule="step(at=(1.25,), gamma=0.1)",
        delay="gamma(mean=1.0, machine_cv=0.1, task_cv=0.1)",
        memory_format="channels_last",
        evaluate_every=0.5,
    )


def cifar10_resnet20() -> RunConfig:
    """The paper's CIFAR-10 setting: ResNet-20, batch 128 a worker, 160 epochs, learning rate 0.5, / 10 at 80 and 120.

    8 workers, an epoch's samples dealt to them in advance, no momentum and no weight decay (Zheng et al. 2017, section
    6 and footnote 10). 45,000 images are trained on and 5,000 kept to choose by, as He et al. do; the paper trained on
    all 50,000: ``--task "cifar10(model='resnet20', validation=0)"``. Crop and flip are on: without them the paper's
    8.65 % cannot be reached; ``augment=False`` is what its text says.
    """
    return RunConfig(
        task="cifar10(model='resnet20')",
        workers=8,
        batch_size=128,
        epochs=160,
        lr=0.5,
        schedule="step(at=(80, 120), gamma=0.1)",
        leases="static",
        delay="gamma(mean=1.0, machine_cv=0.1, task_cv=0.1)",
        memory_format="channels_last",
    )


def cifar10_resnet20_warmup() -> RunConfig:
    """The paper's setting after one epoch of linear warm-up, without which its adaptive rule diverges at once."""
    return cifar10_resnet20().replace(warmup=1.0)
