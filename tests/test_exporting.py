"""Exported weights load into the plain model, strictly, in a process that knows nothing of Tardigrad."""

import json
import subprocess
import sys

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import tardigrad
from tardigrad.cli import main
from tardigrad.errors import InvalidArgument, RunDirectoryError, Stopped
from tardigrad.tasks import TASKS
from tardigrad.tasks.base import Split

PLAIN = '''
import torch
from torch import nn


class Net(nn.Module):
    """Convolution, BatchNorm, two tied layers and, if asked, a frozen one."""

    def __init__(self, frozen=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(4, 2)
        self.head.requires_grad_(not frozen)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.decoder(self.encoder(x).relu()))
'''
READ = """
import sys, safetensors.torch
model = Net()
for parameter in model.parameters():
    parameter.data.zero_()
print(model.load_state_dict(safetensors.torch.load_file(sys.argv[1])))
model.eval()
print(model(torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4) / 96).double().tolist())
assert "tardigrad" not in sys.modules
"""
_PLAIN_NAMES = {}
exec(PLAIN, _PLAIN_NAMES)
Net = _PLAIN_NAMES["Net"]


def task(frozen=False):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 3, 4, 4, generator=generator)
    split = Split(inputs, torch.arange(48) % 2)
    return tardigrad.Task(
        name="small-net", model=lambda: Net(frozen), loss=nn.functional.cross_entropy, train=split, test=split
    )


@pytest.fixture
def registered():
    TASKS.register("small-net", task)
    TASKS.register("half-frozen-net", lambda: task(frozen=True))


def trained(place, recipe=None, **settings):
    settings = {"workers": 2, "epochs": 3, "batch_size": 8, "memory_format": "channels_last"} | settings
    return tardigrad.train(recipe or tardigrad.RunConfig(task="small-net"), directory=place, **settings)


def read_plainly(path):
    """What a plain script makes of the file."""
    done = subprocess.run([sys.executable, "-c", PLAIN + READ, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded, outputs = done.stdout.splitlines()
    assert loaded == "<All keys matched successfully>"
    return torch.tensor(json.loads(outputs), dtype=torch.float64)


def outputs_of(state):
    """What the same model says with these weights in this process."""
    model = Net()
    model.load_state_dict(state, strict=False)
    return model.eval()(torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4) / 96).double()


def facts_of(path):
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()


def test_a_finished_run(tmp_path, registered):
    run = trained(tmp_path / "run")
    path = tardigrad.export(tmp_path / "run", output=tmp_path / "deep" / "model.safetensors")
    assert path == tmp_path / "deep" / "model.safetensors"
    named = safetensors.torch.load_file(path)
    assert named.keys() == Net().state_dict().keys()
    assert torch.equal(named["decoder.weight"], named["encoder.weight"])
    assert all(torch.equal(named[name], tensor) for name, tensor in run.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in named.values())
    torch.testing.assert_close(read_plainly(path), outputs_of(run.state_dict()))
    assert named["norm.num_batches_tracked"] > 0
    facts = facts_of(path)
    assert facts["rule"].startswith("dc-asgd(")
    assert (facts["task"], facts["complete"], facts["config"]) == ("small-net", "yes", run.config.digest)
    assert (int(facts["version"]), int(facts["samples"])) == (run.summary["commits"], 144)


def test_the_command(tmp_path, registered, monkeypatch, capsys):
    trained(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["export", "run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("run.safetensors: 13 tensors of version 18, 144 samples, dc-asgd\n")
    assert "model.load_state_dict(safetensors.torch.load_file('run.safetensors'))\n" in said
    read_plainly("run.safetensors")


class StopAt(list):
    """Says stop at the end of so many pushes."""

    def __call__(self):
        self[0] -= 1
        return self[0] == 0


def stopped(place, *pushes):
    """A run that was stopped after so many pushes, then again."""
    for number in pushes:
        with pytest.raises(Stopped):
            trained(place, stop=StopAt([number]))


def test_checkpoints_of_a_run_that_did_not_end(tmp_path, registered, monkeypatch):
    stopped(tmp_path / "run", 5, 4)
    monkeypatch.chdir(tmp_path)
    newest, older = tardigrad.export("run"), tardigrad.export("run", checkpoint=5)
    assert (newest.name, older.name) == ("run-v9.safetensors", "run-v5.safetensors")
    assert [facts_of(path)["version"] for path in (newest, older)] == ["9", "5"]
    assert [facts_of(path)["samples"] for path in (newest, older)] == ["72", "40"]
    read_plainly(older)
    assert not torch.equal(*[safetensors.torch.load_file(path)["conv.weight"] for path in (newest, older)])


def test_a_checkpoint_holds_the_weights_of_its_version(tmp_path, registered):
    """One worker, so that version n is n steps of SGD whatever comes later."""
    with pytest.raises(Stopped):
        trained(tmp_path / "run", workers=1, stop=StopAt([6]))
    whole = trained(tmp_path / "whole", workers=1, epochs=1)
    named = safetensors.torch.load_file(tardigrad.export(tmp_path / "run", output=tmp_path / "file"))
    assert all(torch.equal(named[name], tensor) for name, tensor in whole.state_dict().items())


def test_frozen_weights_come_from_the_task(tmp_path, registered):
    trained(tmp_path / "run", tardigrad.RunConfig(task="half-frozen-net"), seed=3)
    path = tardigrad.export(tmp_path / "run", output=tmp_path / "file")
    named = safetensors.torch.load_file(path)
    assert torch.equal(named["head.weight"], task(frozen=True).make_model(3).head.weight)
    read_plainly(path)


def test_a_task_that_no_name_leads_to(tmp_path):
    """Its weights are there all the same; with the task they are whole."""
    run = trained(tmp_path / "run", task())
    part = tardigrad.export(tmp_path / "run", output=tmp_path / "part")
    assert safetensors.torch.load_file(part).keys() == run.state_dict().keys()
    assert facts_of(part)["complete"].startswith("no")
    whole = tardigrad.export(tmp_path / "run", output=tmp_path / "whole", task=task())
    assert facts_of(whole)["complete"] == "yes"
    torch.testing.assert_close(read_plainly(whole), outputs_of(run.state_dict()))


def test_an_export_that_is_not_whole_says_how_to_load_it(tmp_path, capsys):
    trained(tmp_path / "run", task())
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "part")]) == 0
    assert ", strict=False)" in capsys.readouterr().out


def test_another_model_is_refused(tmp_path):
    trained(tmp_path / "run", task())
    other = tardigrad.Task(
        name="other", model=lambda: nn.Linear(2, 2), loss=nn.functional.cross_entropy, train=task().train,
        test=task().test,
    )  # fmt: skip
    with pytest.raises(InvalidArgument, match=r"conv\.weight: it is not the model of this run"):
        tardigrad.export(tmp_path / "run", output=tmp_path / "file", task=other)
    assert not (tmp_path / "file").exists()


def test_what_is_not_there_is_refused(tmp_path, registered):
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        tardigrad.export(tmp_path)
    stopped(tmp_path / "run", 5)
    with pytest.raises(RunDirectoryError, match="5"):
        tardigrad.export(tmp_path / "run", checkpoint=4)
    for path in (tmp_path / "run").glob("checkpoint-*"):
        path.unlink()
    with pytest.raises(RunDirectoryError, match="neither final weights nor a checkpoint"):
        tardigrad.export(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
