"""The command line: commands, options and exit statuses that others' scripts rely on."""

import dataclasses
import json
import subprocess
import sys

import pytest

from tardigrad.cli import COMMANDS, main
from tardigrad.config import RunConfig
from tardigrad.engines.base import Observer
from tardigrad.errors import AllWorkersLost, EndedElsewhere, ShardLost
from tardigrad.transports.credentials import new_secret


def test_the_commands():
    assert list(COMMANDS) == [
        "train", "run", "serve", "join", "status", "workers", "export", "replay", "compare", "tune", "report", "list",
        "doctor",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(capsys, words):
    assert main(words) == 0
    text = capsys.readouterr().out
    assert all(f"tardigrad {command}" in text for command in COMMANDS)


def test_every_field_of_the_configuration_is_an_option(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "digits", "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for item in dataclasses.fields(RunConfig):
        assert f"--{item.name.replace('_', '-')}" in text, item.name


def test_list_names_everything_registered(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in ("digits", "quadratic", "dc-asgd-a", "ssp", "gamma", "cosine", "simulated", "sequential"):
        assert f"  {name} " in text
    assert "cannot be read" not in text
    assert main(["list", "rules"]) == 0
    assert "lognormal" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train"], "name a recipe first"),
        (["train", "digit"], "Did you mean 'digits'"),
        (["train", "digits", "--rule", "dc-asd"], "Did you mean 'dc-asgd'"),
        (["train", "digits", "--rule", "dc-asgd-a(lamda0=1)"], "Did you mean 'lambda0'"),
        (["train", "digits", "--rule", "dc-asgd-a(lambda0=-1)"], "lambda0=-1"),
        (["train", "digits", "--optimizer", "sgd(momentum=1)"], "momentum=1"),
        (["train", "digits", "--imports", "nowhere.py"], "no Python file nowhere.py"),
        (["compare", "digits", "--rule", "asgd"], "--algorithms, not --rule"),
        (["compare", "digits", "--algorithms", "nothing"], "unknown rule 'nothing'"),
        (["compare", "quadratic", "--jobs", "0"], "jobs=0"),
        (["compare", "quadratic", "--controls"], "add --tuned"),
        (["compare", "quadratic", "--tuned"], "no validation split"),
        (["compare", "quadratic", "--tuned", "--finer", "1"], "must be even"),
        (["compare", "quadratic", "--stop-after", "soon"], "type 9m"),
        (["tune", "digits", "--jobs", "0"], "jobs=0"),
        (["tune", "digits", "--rule", "asgd"], "--algorithms, not --rule"),
        (["train", "--resume", "nowhere"], "no run that can go on"),
        (["serve"], "name a recipe or a script"),
        (["serve", "digit"], "Did you mean 'digits'"),
        (["serve", "nowhere.py"], "no script nowhere.py"),
        (["serve", "digits", "--listen", "here"], "'here' is no address"),
        (["serve", "digits", "--engine", "local"], "leave out --engine"),
        (["serve", "--resume", "nowhere"], "no run that can go on"),
        (["join", "10.0.0.2"], "10.0.0.2"),
        (["join", "10.0.0.2:7070"], "a run is joined with its secret"),
        (["join", "10.0.0.2:7070", "--secret-file", "nowhere"], "nowhere"),
        (["join", "10.0.0.2:7070", "--workers", "0"], "workers=0"),
        (["join", "10.0.0.2:7070", "--device", "tpu"], "device 'tpu'"),
        (["join", ".", "--secret-file", "x"], "waits for no workers"),
        (["join", "10.0.0.2:7070", "--secret-file", "x", "nowhere.py"], "no script nowhere.py"),
        (["train", "--resume", "nowhere", "--stop-after", "soon"], "type 9m"),
        (["status", "nowhere"], "nowhere is not a run directory"),
        (["workers", "nowhere", "--set", "2"], "nowhere is not a run directory"),
        (["workers", "nowhere", "--set", "0"], "set=0"),
        (["export", "nowhere"], "nowhere is not a run directory"),
        (["report"], "name at least one run"),
        (["report", "nowhere"], "nowhere"),
        (["list", "rulez"], "Did you mean 'rules'"),
    ],
)
def test_a_mistake_gets_one_sentence_and_status_2(capsys, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("lr", "sentence"), [("-1", "lr=-1"), ("nan", "lr=nan"), ("fast", "fast")])
def test_a_value_out_of_range_gets_a_sentence(capsys, lr, sentence):
    with pytest.raises(SystemExit) as left:
        main(["train", "digits", "--lr", lr])
    assert left.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_misspelled_option_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "digits", "--worker", "4"])
    assert left.value.code == 2
    assert "--workers" in capsys.readouterr().err


def test_a_dry_run_prints_the_configuration_and_memory_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--rule", "dc-asgd-a", "--workers", "4", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "dc-asgd-a(lambda0=2.0, mean_square_decay=0.95" in text
    # 38,282 float32 parameters: 0.146 MiB; 4 backups, 4 mean squares
    assert "backups                 0.6  4 copies" in text
    assert "rule state              0.6  4 copies: mean_square of each worker" in text
    assert main(["compare", "digits", "--lrs", "0.1", "0.2", "--seeds", "0", "--dry-run"]) == 0
    assert "16 runs" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_a_link_carries(capsys):
    link = ["--link", "100Mbit/s", "--step-seconds", "0.01"]
    assert main(["train", "digits", "--workers", "4", "--dry-run", *link]) == 0
    text = capsys.readouterr().out
    assert "wanted                  400  4 workers, 0.01 s a gradient" in text
    assert "0.0245 s at 100 Mbit/s" in text  # 2 x 38,282 x 4 bytes
    assert main(["train", "digits", *link]) == 2
    assert "--link and --step-seconds are for --dry-run" in capsys.readouterr().err


def test_train_then_report(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "quadratic", "--epochs", "2", "--directory", "run"]) == 0
    captured = capsys.readouterr()
    assert "epoch   2.00" in captured.err
    assert "samples/s" in captured.err
    assert "staleness" in captured.err
    assert main(["report", "run"]) == 0
    assert (tmp_path / "run" / "report" / "report.html").exists()


def test_without_matplotlib_there_is_a_table_and_a_sentence_but_no_page(capsys, tmp_path, monkeypatch):
    assert main(["train", "quadratic", "--epochs", "2", "--directory", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "dc-asgd" in text
    assert "no page: " in text
    assert "pip install 'tardigrad[report]'" in text


FAILURES = [ShardLost(1, "gone"), EndedElsewhere("elsewhere"), AllWorkersLost(3, [])]


@pytest.mark.parametrize("error", FAILURES)
def test_a_run_that_fails_has_status_1(capsys, tmp_path, monkeypatch, error):
    def fails(*arguments, **keywords):
        raise error

    monkeypatch.setattr("tardigrad.training.train", fails)
    assert main(["train", "quadratic", "--directory", str(tmp_path / "run")]) == 1
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize("error", FAILURES)
def test_so_has_one_whose_server_is_an_actor(tmp_path, monkeypatch, error):
    pytest.importorskip("ray", reason="the Ray engine needs Ray: pip install 'tardigrad[ray]'")
    from tardigrad.commands.elsewhere import serve_task

    def fails(*arguments, **keywords):
        raise error

    monkeypatch.setattr("tardigrad.training.train", fails)
    ending = serve_task(RunConfig().as_json(), str(tmp_path), new_secret(), Observer(), lambda: False)
    assert (ending.status, str(error) in ending.words) == (1, True)


def test_a_diverged_run_has_status_1_and_names_the_remedies(capsys, tmp_path):
    words = ["train", "quadratic", "--lr", "500", "--rule", "asgd", "--directory", str(tmp_path / "run")]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "diverged at version" in captured.err
    assert "clip_compensation" in captured.err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"


def test_a_reader_that_stops_reading_is_no_error():
    call = f"{sys.executable} -m tardigrad list | head -n 1"
    done = subprocess.run(call, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "recipes\n"
    assert "Traceback" not in done.stderr


def test_the_doctor_says_what_is_there(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for subject in ("platform", "python", "cores", "memory", "torch", "GPU", "C++ compiler", "scikit-learn", "data"):
        assert subject in text


def test_train_stops_in_time_and_goes_on(capsys, tmp_path):
    place = str(tmp_path / "run")
    assert main(["train", "quadratic", "--epochs", "2", "--stop-after", "0.001s", "--directory", place]) == 3
    said = capsys.readouterr().err
    assert "stopped at version 1: 16 samples, epoch 0.02, mean staleness 0.0\n" in said
    assert f"to go on: tardigrad train --resume {place}\n" in said
    assert not (tmp_path / "run" / "summary.json").exists()
    assert main(["train", "--resume", place]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"
    assert main(["train", "--resume", place]) == 2  # it has ended


def test_a_comparison_that_is_stopped_says_so_and_has_status_3(capsys, tmp_path):
    words = ["compare", "quadratic", "--algorithms", "asgd", "--epochs", "2", "--directory", str(tmp_path / "out")]
    assert main([*words, "--stop-after", "0.001s"]) == 3
    assert "the same command goes on" in capsys.readouterr().err
    assert main(words) == 0


def test_tune_prints_what_was_chosen_and_from_what(capsys, tmp_path):
    words = ["digits", "--epochs", "1", "--batch-size", "128", "--workers", "2", "--finer", "2"]
    words += ["--algorithms", "dc-asgd-a", "--lrs", "0.05", "0.1"]
    assert main(["tune", *words, "--directory", str(tmp_path / "out")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "dc-asgd-a" in text
    assert "0.05 (2):" in text
    assert "(0.5):" in text
    assert "(8):" in text
    assert len(json.loads((tmp_path / "out" / "comparison.json").read_text())["tuned"]["choices"]) == 1
