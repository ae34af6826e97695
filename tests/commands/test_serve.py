"""tardigrad serve and tardigrad join: two processes of this machine, by what people type."""

import dataclasses
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tardigrad import running
from tardigrad.audit import audit
from tardigrad.cli import main
from tardigrad.commands.join import _split, in_words
from tardigrad.commands.serve import ServeOptions
from tardigrad.engines.joined.place import PlaceView
from tardigrad.transports.credentials import new_secret, write_secret

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def secret(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TARDIGRAD_SECRET", raising=False)
    write_secret(tmp_path / "secret", new_secret())
    return str(tmp_path / "secret")


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def start():
    """Starts the program, and ends what is left of it."""
    started = []

    def begin(*words):
        call = [sys.executable, "-m", "tardigrad", *map(str, words)]
        started.append(subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    out, err = process.communicate(timeout=150)
    return process.returncode, out, err


def until(process, words):
    """Read what a process says on its error stream up to a line with these words."""
    for line in process.stderr:
        if words in line:
            return line
    raise AssertionError(f"it ended without {words!r}")


def summary(place):
    return json.loads((Path(place) / "summary.json").read_text())


def test_a_recipe_is_served_and_joined(secret, address, start, tmp_path, capsys):
    server = start(
        "serve", "quadratic", "--workers", "2", "--epochs", "2", "--listen", address, "--directory", "run",
        "--secret-file", secret,
    )  # fmt: skip
    line = until(server, "workers join with: ")
    assert line == f"workers join with: tardigrad join {address} --secret-file {secret}\n"

    write_secret(tmp_path / "another", new_secret())
    assert main(["join", address, "--secret-file", "another"]) == 2
    assert "secret" in capsys.readouterr().err
    (tmp_path / "train.py").write_text("")
    assert main(["join", address, "--secret-file", secret, "train.py"]) == 2
    assert "leave train.py out of the line" in capsys.readouterr().err

    assert main(["join", "run", "--workers", "2"]) == 0
    said = capsys.readouterr().err
    assert "joining run with 2 workers" in said
    assert "worker 0 (life 0) begins" in said
    assert "the run has ended" in said
    code, out, err = ended(server)
    assert code == 0, err
    assert "recorded in run" in out
    assert summary("run")["status"] == "finished"
    assert audit(tmp_path / "run").ok


def test_a_script_is_served_and_joined_unchanged(secret, address, start, tmp_path, capsys):
    script = EXAMPLES / "script_own_loop.py"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "loop.py").write_bytes(script.read_bytes())
    server = start(
        "serve", "--workers", "2", "--own-workers", "1", "--listen", address, "--secret-file", secret,
        "--directory", "run", script, "--epochs", "1",
    )  # fmt: skip
    assert until(server, "workers join with: ").endswith(" script_own_loop.py\n")
    assert main(["join", address, "--secret-file", secret]) == 2
    assert "copy it to this machine" in capsys.readouterr().err
    assert main(["join", address, "--secret-file", secret, str(EXAMPLES / "script_lora.py")]) == 2
    assert "Copy the server's file here" in capsys.readouterr().err
    assert main(["join", address, "--secret-file", secret, "mine/loop.py"]) == 0
    code, _, err = ended(server)
    assert code == 0, err
    assert summary("run")["samples"] == 1408
    assert "1" in summary("run")["staleness"]["histogram"]  # whoever is the faster one takes more, or all


def test_a_drained_machine_a_stopped_server_and_how_both_go_on(secret, address, start, tmp_path, capsys):
    serve = ["--listen", address, "--directory", "run", "--secret-file", secret]
    server = start("serve", "quadratic", "--workers", "2", "--own-workers", "1", "--epochs", "400", *serve)
    guest = start("join", address, "--secret-file", secret)
    until(guest, "worker 1 (life 0) begins")
    until(server, "before training")
    guest.send_signal(signal.SIGTERM)
    code, _, err = ended(guest)
    assert code == 0, err
    assert "SIGTERM: handing in what is being computed" in err
    assert "drained" in err
    server.send_signal(signal.SIGTERM)
    code, _, err = ended(server)
    assert code == 3, err
    assert "to go on: tardigrad serve --resume run" in err
    assert main(["status", "run"]) == 0
    assert "tardigrad serve --resume run" in capsys.readouterr().out


def test_a_script_is_served_with_the_settings_of_run_and_where_workers_come_in():
    where = {"listen", "secret_file", "trusted_network", "reconnect_within", "own_workers"}
    assert {item.name for item in dataclasses.fields(ServeOptions)} >= where | {"workers", "rule", "group", "directory"}
    assert where < set(running.SETTINGS)
    assert ServeOptions().settings == {"listen": ":7070", "trusted_network": False}


@pytest.mark.parametrize(
    ("words", "split"),
    [
        ("h:1 --workers 2 train.py --lr 1", (["h:1", "--workers", "2"], "train.py", ["--lr", "1"])),
        ("h:1 --imports my.py --workers 2", (["h:1", "--imports", "my.py", "--workers", "2"], None, [])),
        ("h:1 --imports a.py b.py --again t.py", (["h:1", "--imports", "a.py", "b.py", "--again"], "t.py", [])),
    ],
)
def test_what_is_imported_is_not_taken_for_the_script(words, split):
    assert _split(words.split()) == split


def test_places_in_words():
    assert in_words(PlaceView("dialling")) == "dialling"
    assert in_words(PlaceView("cut off", 3, 7)) == "worker 3 cut off"
    assert in_words(PlaceView("waiting", 3)) == "waiting"
