"""A dry run knows sizes without reading a byte of data."""

import pytest
import torch

from tardigrad.cli import main
from tardigrad.data.unread import is_unread, without_data
from tardigrad.tasks import TASKS


@pytest.mark.parametrize(("spec", "sizes"), [("cifar10", (45_000, 5_000, 10_000)), ("cifar100(train=100)", None)])
def test_a_task_of_shapes_alone(spec, sizes, monkeypatch, tmp_path):
    monkeypatch.setenv("TARDIGRAD_DATA", str(tmp_path / "nothing here"))
    with without_data():
        task = TASKS.build(spec)
    train, validation, test = sizes or (100, 5_000, 10_000)
    assert (len(task.train), len(task.validation), len(task.test)) == (train, validation, test)
    assert task.train.inputs.shape == (train, 3, 32, 32)
    assert (task.train.inputs.dtype, task.train.targets.dtype) == (torch.uint8, torch.int64)
    assert task.train.inputs.is_meta
    assert not (tmp_path / "nothing here").exists()


def test_the_context_ends():
    with without_data():
        assert is_unread()
    assert not is_unread()


def test_a_dry_run_reads_no_images(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TARDIGRAD_DATA", str(tmp_path / "nothing here"))
    assert main(["train", "cifar10-resnet20", "--dry-run"]) == 0
    assert "8 copies: one for each version" in capsys.readouterr().out
    assert main(["train", "cifar10-resnet20", "--engine", "local", "--workers", "3", "--dry-run"]) == 0
    assert "down slots" in capsys.readouterr().out
    assert not (tmp_path / "nothing here").exists()
