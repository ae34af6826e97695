"""tardigrad run: options before the script are the run's, what follows is the script's."""

import dataclasses
import json
from pathlib import Path

import pytest

from tardigrad import running
from tardigrad.audit import audit
from tardigrad.cli import main
from tardigrad.commands.run import RunOptions, split_script

CALLS_RUN = """
import sys
import torch
import tardigrad

def main(session):
    print("seed", session.seed, "arguments", sys.argv[1:], "name", __name__)

if __name__ == "__main__":
    tardigrad.run(main, engine=None, seed=1)
"""
ONLY_MAIN = """
def main(session):
    print("workers", session.workers, "seed", session.seed)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        (tmp_path / "train.py").write_text(text)
        return "train.py"

    return write


def test_its_options_are_the_settings_of_run():
    of_serve = {"listen", "secret_file", "trusted_network", "reconnect_within", "own_workers"}
    own = {"server_actor"}
    assert {item.name for item in dataclasses.fields(RunOptions)} - own == set(running.SETTINGS) - of_serve


def test_only_what_was_typed_is_a_setting():
    assert RunOptions().settings == {}
    typed = RunOptions(engine="none", batch_size=(32,), workers=2)
    assert typed.settings == {"engine": None, "batch_size": 32, "workers": 2}
    assert RunOptions(batch_size="by-speed").settings == {"batch_size": "by-speed"}
    assert RunOptions(batch_size=(51, 13), engine="local").settings == {"engine": "local", "batch_size": (51, 13)}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--workers 4 train.py --lr 1 other.py", (["--workers", "4"], "train.py", ["--lr", "1", "other.py"])),
        ("train.py", ([], "train.py", [])),
        ("--workers 4", (["--workers", "4"], None, [])),
    ],
)
def test_the_first_file_is_the_script(words, expected):
    assert split_script(words.split()) == expected


def test_a_script_runs_with_its_own_settings_and_arguments(script, capsys):
    assert main(["run", script(CALLS_RUN), "--seed", "7"]) == 0
    assert "seed 1 arguments ['--seed', '7'] name __main__" in capsys.readouterr().out


def test_settings_of_the_command_take_the_place_of_the_scripts(script, capsys):
    assert main(["run", "--seed", "7", script(CALLS_RUN)]) == 0
    assert "seed 7 arguments [] name __main__" in capsys.readouterr().out


def test_a_script_that_has_only_main_is_run_with_it(script, capsys):
    assert main(["run", "--engine", "none", "--seed", "5", script(ONLY_MAIN)]) == 0
    assert "workers 1 seed 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name a script"),
        (["--workers", "2"], "name a script"),
        (["nowhere.py"], "there is no script nowhere.py"),
        (["train.py"], "neither called tardigrad.run(main, ...) nor defines main(session)"),
    ],
)
def test_a_mistake_gets_a_sentence(script, capsys, words, sentence):
    script("answer = 42\n")
    assert main(["run", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_an_option_that_is_not_there_is_refused(script, capsys):
    with pytest.raises(SystemExit) as left:
        main(["run", "--worker", "4", script(ONLY_MAIN)])
    assert left.value.code == 2
    assert "--workers" in capsys.readouterr().err


TRAINS = """
import torch
import tardigrad
from torch.utils.data import DataLoader, TensorDataset

def main(session):
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.arange(24.0).reshape(8, 3) / 24.0), batch_size=2)
    model, optimizer, loader = session.prepare(model, optimizer, loader)
    for epoch in session.epochs(2):
        for points, in loader:
            optimizer.zero_grad()
            model(points).square().mean().backward()
            optimizer.step()

if __name__ == "__main__":
    tardigrad.run(main, workers=1)
"""


class Signals:
    """As if a signal had come early."""

    def __init__(self):
        self.questions = 0

    def asked(self):
        self.questions += 1
        return self.questions >= 3

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_a_run_that_a_signal_stopped_goes_on_where_it_was(script, capsys, monkeypatch):
    words = ["run", "--directory", "here", script(TRAINS)]
    with monkeypatch.context() as patched:
        patched.setattr("tardigrad.commands.run.StopSignals", Signals)
        assert main(words) == 3
    said = capsys.readouterr().err
    assert "stopped at version" in said
    assert "to go on: the same command, with --directory here before train.py" in said
    assert not Path("here", "summary.json").exists()
    assert main(["run", "--engine", "local", *words[1:]]) == 0
    assert capsys.readouterr().err.endswith("recorded in here\n")
    assert json.loads(Path("here", "summary.json").read_text())["status"] == "finished"
    assert "16 samples applied once" in audit(Path("here")).verdict
