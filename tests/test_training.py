"""`train`: one worker is plain PyTorch; a run directory says what happened; what is not built in can be brought."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

import tardigrad
from tardigrad.errors import InvalidArgument, RunDirectoryError
from tardigrad.leases import epoch_permutation
from tardigrad.tasks.base import ERROR, Split
from tardigrad.tasks.digits import digits


def small_task(model=lambda: nn.Linear(6, 3), name="small"):
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(120, 6, generator=stream)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    parts = [Split(x[a:b], y[a:b]) for a, b in ((0, 80), (80, 100), (100, 120))]
    return tardigrad.Task(
        name=name,
        model=model,
        loss=functional.cross_entropy,
        metric=ERROR,
        train=parts[0],
        validation=parts[1],
        test=parts[2],
    )


def plain_loop(task, *, seed, lr_at, batch_size, epochs, **keywords):
    model = task.make_model(seed).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False, fused=False, **keywords)
    applied, samples = 0, len(task.train)
    for epoch in range(epochs):
        order = torch.from_numpy(epoch_permutation(samples, seed, epoch).copy())
        for index in order.split(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = lr_at(applied / samples)
            optimizer.zero_grad()
            task.loss(model(task.train.inputs[index]), task.train.targets[index]).backward()
            optimizer.step()
            applied += len(index)
    return model


@pytest.mark.parametrize("rule", ["asgd", "dc-asgd", "dc-asgd-a", "dc-asgd-c", "staleness-lr"])
@pytest.mark.parametrize(
    "keywords", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}], ids=["plain", "nesterov+decay"]
)
def test_one_worker_on_digits_is_plain_pytorch_bit_for_bit(tmp_path, rule, keywords):
    lr = lambda epoch: 0.05 * (0.1 if epoch >= 1 else 1.0)  # noqa: E731
    torch.set_num_threads(1)
    model = plain_loop(digits(), seed=3, lr_at=lr, batch_size=32, epochs=2, **keywords)
    made = tardigrad.rule(rule, **keywords)
    run = tardigrad.train(
        "digits",
        rule=made,
        workers=1,
        seed=3,
        lr=0.05,
        schedule="step(at=(1,), gamma=0.1)",
        batch_size=32,
        epochs=2,
        directory=tmp_path / "run",
    )
    for ours, theirs in zip(run.weights(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_batchnorm_of_one_worker_is_plain_pytorch(tmp_path):
    def model():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    task = small_task(model)
    plain = plain_loop(task, seed=0, lr_at=lambda epoch: 0.1, batch_size=16, epochs=3)
    run = tardigrad.train(
        task, rule="asgd", workers=1, seed=0, lr=0.1, batch_size=16, epochs=3, directory=tmp_path / "r"
    )
    expected = plain.state_dict()
    for name, value in run.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert set(run.state_dict()) == set(expected)


def test_dropout_is_drawn_from_seed_epoch_and_lease_not_from_a_running_generator(tmp_path):
    task = small_task(lambda: nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 3)))
    settings = {"rule": "dc-asgd", "workers": 3, "batch_size": 8, "epochs": 2, "lr": 0.1}
    torch.manual_seed(1)
    one = tardigrad.train(task, directory=tmp_path / "one", **settings)
    torch.manual_seed(2)
    torch.rand(5)
    before = torch.random.get_rng_state()
    two = tardigrad.train(task, directory=tmp_path / "two", **settings)
    assert all(torch.equal(a, b) for a, b in zip(one.weights(), two.weights(), strict=True))
    assert torch.equal(before, torch.random.get_rng_state())  # the caller's generator was left alone


def test_frozen_parameters_do_not_travel_and_do_not_change(tmp_path):
    def model():
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        net[0].requires_grad_(False)
        return net

    run = tardigrad.train(small_task(model), rule="asgd", workers=2, batch_size=8, epochs=1, directory=tmp_path / "r")
    assert [tuple(w.shape) for w in run.weights()] == [(3, 8), (3,)]


def test_synchronous_equals_one_large_batch_weighted_by_samples(tmp_path):
    task = small_task()
    sizes = (10, 6, 4)
    run = tardigrad.train(
        task,
        rule="asgd",
        workers=3,
        batch_size=sizes,
        consistency="synchronous",
        lr=0.2,
        epochs=2,
        directory=tmp_path / "run",
    )
    plain = plain_loop(task, seed=0, lr_at=lambda epoch: 0.2, batch_size=sum(sizes), epochs=2)
    for ours, theirs in zip(run.weights(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_the_run_directory_says_what_happened(tmp_path):
    run = tardigrad.train("quadratic", rule="dc-asgd-a(lambda0=3)", workers=4, epochs=2, directory=tmp_path / "run")
    place = run.directory
    config = json.loads((place / "config.json").read_text())
    assert config["rule"].startswith("dc-asgd-a(lambda0=3")
    assert "mean_square_decay=0.95" in config["rule"]
    assert tardigrad.RunConfig.from_json(config) == run.config
    lines = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    header, events = lines[0], lines[1:]
    assert header["parameters"] == 20
    assert header["samples_per_epoch"] == 1024
    commits = [event for event in events if event[0] == "commit"]
    assert [event[2] for event in commits] == list(range(1, len(commits) + 1))  # versions without gap
    read = {}
    for event in events:
        if event[0] == "pull":
            read[event[2]] = event[4]
        for worker, _, read_version, *_ in event[5] if event[0] == "commit" else ():
            assert read_version == read[worker]
    assert run.summary["commits"] == len(commits)
    counts = run.summary["staleness"]["histogram"]
    assert sum(sum(own.values()) for own in counts.values()) == len(commits)
    assert run.summary["compensation_ratio"]["mean"] > 0
    weights = safetensors.torch.load_file(place / "weights.safetensors")
    assert torch.equal(weights["w"], run.weights()[0])
    assert len((place / "evaluations.jsonl").read_text().splitlines()) == len(run.evaluations) == 3
    environment = json.loads((place / "environment.json").read_text())
    assert environment["torch"] == torch.__version__


def test_a_finished_run_is_never_overwritten(tmp_path):
    tardigrad.train("quadratic", epochs=0, directory=tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="finished run"):
        tardigrad.train("quadratic", epochs=0, directory=tmp_path / "run")


@pytest.mark.parametrize(
    "others", [["precious.txt"], ["config.json", "precious.txt"], ["summary.json"], ["config.json"]]
)
def test_a_directory_with_files_of_others_is_refused_and_left_as_it_was(tmp_path, others):
    for name in others:
        (tmp_path / name).write_text("mine")
    with pytest.raises(RunDirectoryError, match="not a run"):
        tardigrad.train("quadratic", epochs=0, directory=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_an_unfinished_run_with_a_file_of_ones_own_is_refused(tmp_path):
    tardigrad.train("quadratic", epochs=0, directory=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="not a run"):
        tardigrad.train("quadratic", epochs=0, directory=tmp_path / "run")
    (tmp_path / "run" / "notes.txt").unlink()
    assert tardigrad.train("quadratic", epochs=0, directory=tmp_path / "run").summary["status"] == "finished"


def test_a_file_in_place_of_a_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is a file"):
        tardigrad.train("quadratic", epochs=0, directory=tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_saved_weights_load_into_the_plain_model_with_its_batchnorm_statistics(tmp_path):
    def model():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    task = small_task(model)
    run = tardigrad.train(task, rule="asgd", workers=3, batch_size=8, epochs=2, directory=tmp_path / "run")
    plain = model()
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "run" / "weights.safetensors"))
    outputs = plain.eval()(task.test.inputs)
    assert task.loss(outputs, task.test.targets).item() == pytest.approx(run.evaluations[-1].scores["test"]["loss"])
    assert plain[1].num_batches_tracked > 0


def test_a_rule_may_be_named_by_module_and_class(tmp_path):
    name = "tardigrad.rules.staleness_lr:StalenessLR"
    run = tardigrad.train("quadratic", rule=f"{name}(power=0.5)", epochs=1, directory=tmp_path / "run")
    assert "power=0.5" in run.config.rule
    stranger = "own_rules_of_a_test:Own"
    (tmp_path / "own_rules_of_a_test.py").write_text(
        STRANGER.replace("class Halved", "class Own").replace("tardigrad.register_rule", "# ")
    )
    code = f"import tardigrad; print(tardigrad.train('quadratic', rule='{stranger}(share=0.5)', epochs=1).config.rule)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "own_rules_of_a_test:Own(share=0.5)", done.stderr


def test_whole_numbers_and_floats_are_one_setting():
    whole, real = (
        tardigrad.RunConfig(rule=tardigrad.rule("dc-asgd-a", lambda0=x).spec, lr=y) for x, y in ((4, 1), (4.0, 1.0))
    )
    assert whole.digest == real.digest


def test_without_a_directory_runs_get_fresh_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = (tardigrad.train("quadratic", epochs=0) for _ in range(2))
    assert one.directory != two.directory
    assert one.directory.parts[:2] == ("runs", "quadratic")


def test_unknown_settings_get_a_suggestion(tmp_path):
    with pytest.raises(InvalidArgument, match="Did you mean 'workers'"):
        tardigrad.train("digits", worker=4, directory=tmp_path / "run")
    with pytest.raises(InvalidArgument, match="Did you mean 'digits'"):
        tardigrad.train("digit", directory=tmp_path / "run")
    with pytest.raises(InvalidArgument, match="unknown task"):
        tardigrad.train("digits", task="imagenet", directory=tmp_path / "run")


def test_an_interrupted_run_says_so(tmp_path):
    class Stop(tardigrad.engines.base.Observer):
        def committed(self, time, commit):
            if commit.version == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tardigrad.train("quadratic", directory=tmp_path / "run", observers=[Stop()])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"


def test_another_platform_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(tardigrad.errors.UnsupportedPlatform, match="WSL 2"):
        tardigrad.train("quadratic", directory=tmp_path / "run")


STRANGER = '''
from dataclasses import dataclass
import tardigrad

@dataclass(frozen=True, slots=True)
class Halved(tardigrad.Compensation):
    """Half of a late gradient."""
    name = "halved"
    share: float = 0.5

    def compensate(self, g, w, backup, state, facts):
        """share * g, where it is late."""
        return (g if facts.staleness == 0 else g.mul(self.share)), {}

tardigrad.register_rule("halved", Halved)
'''


def test_a_strangers_rule_trains_from_the_command_line_and_reports(tmp_path):
    (tmp_path / "mine.py").write_text(STRANGER)
    words = "compare quadratic --algorithms asgd halved halved(share=0.25) --imports mine.py --epochs 2 --seeds 0 1"
    call = [sys.executable, "-m", "tardigrad", *words.split(), "--jobs", "2", "--directory", "out"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "halved(share=0.25)" in done.stdout
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    assert "halved(share=0.25)" in page
    assert len(list((tmp_path / "out").glob("halved*/summary.json"))) == 4


def test_a_strangers_rule_is_found_by_entry_point(tmp_path):
    (tmp_path / "mine.py").write_text(STRANGER.replace("tardigrad.register_rule", "# "))
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tardigrad.rules]\nhalved = mine:Halved\n")
    code = "import tardigrad; print(tardigrad.rule('halved', share=0.1).spec)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "halved(share=0.1)"
