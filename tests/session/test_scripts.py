"""Scripts: how a worker, or a replay, finds a user's function; and what stands in the way gets a sentence."""

import functools
import json
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

from tardigrad import children
from tardigrad.errors import SessionError
from tardigrad.session import scripts
from tardigrad.session.scripts import Script


def main(session):
    return session, sys.argv[1:]


def scaled(session, factor, *, shift=0):
    return session * factor + shift


class Experiment:
    def __init__(self, factor):
        self.factor = factor

    def main(self, session):
        return session * self.factor

    @staticmethod
    def plain(session):
        return session

    @classmethod
    def made(cls, session):
        return cls(session).factor


renamed = main


def wrapped(function):
    @functools.wraps(function)
    def inner(session):
        return function(session) + 1

    return inner


@wrapped
def decorated(session):
    return session


SOURCE = """
import sys
import beside

FACTOR = beside.FACTOR
if __name__ == "__main__":
    raise RuntimeError("run, not imported")

def main(session, shift):
    return session * FACTOR + shift, sys.argv, __name__, sys.modules["__main__"].FACTOR
"""


def file_script(folder, *, args=(1,), argv=("--deep", "4")):
    """A Script as it would be made in a process that was started with the file."""
    (folder / "beside.py").write_text("FACTOR = 3\n")
    path = folder / "train.py"
    path.write_text(SOURCE)
    digest = scripts._digest(str(path))
    return Script("__main__", "", "main", str(path), str(folder), tuple(argv), digest, tuple(args))


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (scaled, (4,), 12),
        (Experiment(5).main, (), 15),
        (Experiment.plain, (), 3),
        (Experiment.made, (), 3),
        (decorated, (), 4),
    ],
)
def test_what_has_a_name_is_found_again(function, args, expected):
    script = Script.of(function, args)
    assert script.load()(3) == expected
    assert script.path == os.path.realpath(__file__)


def test_a_record_leads_back_to_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1"])
    plain = json.loads(json.dumps(Script.of(scaled, (4,)).as_json()))
    again = Script.from_json(plain)
    assert again == Script.of(scaled, (4,))
    monkeypatch.setattr(sys, "argv", ["elsewhere"])
    with again.in_place() as function:
        assert function(3) == 12
        assert sys.argv[1:] == ["--lr", "0.1"]
    assert sys.argv == ["elsewhere"]


def test_a_file_is_imported_and_not_run_and_everything_is_put_back(tmp_path):
    script = Script.from_json(json.loads(json.dumps(file_script(tmp_path).as_json())))
    before = sys.argv, list(sys.path), sys.modules["__main__"], sys.modules.get("__mp_main__")
    with script.in_place() as function:
        assert function(2) == (7, [script.path, "--deep", "4"], "__mp_main__", 3)
    assert (sys.argv, sys.path, sys.modules["__main__"], sys.modules.get("__mp_main__")) == before
    del sys.modules["beside"]


def test_a_changed_or_missing_file_is_refused(tmp_path):
    script = file_script(tmp_path)
    (tmp_path / "train.py").write_text(SOURCE + "\n")
    with pytest.raises(SessionError, match="has changed since"), script.in_place():
        pass
    (tmp_path / "train.py").unlink()
    with pytest.raises(SessionError, match="is not there"), script.in_place():
        pass


def test_a_function_that_went_away_gets_a_sentence(tmp_path):
    script = file_script(tmp_path)
    gone = Script(script.module, "", "other", *(getattr(script, name) for name in ("path", "folder", "argv", "digest")))
    with pytest.raises(SessionError, match="has no other any more"), gone.in_place():
        pass
    del sys.modules["beside"]


@pytest.mark.parametrize("args", [((1, 2),), ({1: "a"},), ({1},), (float("nan"),)])
def test_arguments_that_json_changes_are_not_recorded(args):
    plain = Script.of(scaled, args).as_json()
    assert plain["args"] is None
    with pytest.raises(SessionError, match="cannot be called again"):
        Script.from_json(plain)


def test_the_owner_of_a_method_is_not_recorded():
    assert Script.of(Experiment(5).main).as_json()["args"] is None


def test_another_process_does_not_take_its_own_main_for_the_script(tmp_path):
    with pytest.raises(SessionError, match="was not started from"):
        file_script(tmp_path).load()


def local_function():
    def inner(session):
        return session

    return inner


class Unpicklable(Experiment):
    def __init__(self):
        self.lock = threading.Lock()


def nothing():
    return None


@pytest.mark.parametrize(
    ("function", "args", "sentence"),
    [
        (lambda session: session, (), "was given a lambda"),
        (local_function(), (), "inner is defined inside local_function"),
        (functools.partial(main), (), "functools.partial is none"),
        (Experiment, (), "is none"),
        (7, (), "7 is none"),
        (nothing, (), "nothing\\(\\) is called with the session: too many positional.* `def nothing\\(session\\)"),
        (main, (1,), "and 1 more from args="),
        (scaled, (threading.Lock(),), "args= cannot travel .* pickle"),
        (Unpicklable().main, (), "the object whose method Experiment.main is, cannot travel"),
    ],
)
def test_what_cannot_be_found_again_gets_a_sentence(function, args, sentence):
    with pytest.raises(SessionError, match=sentence):
        Script.of(function, args)


def test_a_name_that_leads_elsewhere_is_refused(monkeypatch):
    monkeypatch.setitem(globals(), "main", scaled)
    with pytest.raises(SessionError, match="does not lead to the function"):
        Script.of(renamed)


def test_what_was_typed_in_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "__file__", "<stdin>")
    with pytest.raises(SessionError, match="lies in no file"):
        Script.of(main)


CHILD = """
import multiprocessing, sys
from tardigrad.session.scripts import Script, guard
{unguarded}
def main(session, shift):
    return session + shift, sys.argv[1:], __name__

def work(script, answer):
    answer.send(script.load()(40))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    mine, theirs = context.Pipe()
    worker = context.Process(target=work, args=(Script.of(main, (2,)), theirs), name="tardigrad-worker-0")
    worker.start()
    theirs.close()
    try:
        print(*mine.recv())
    except EOFError:
        print("no answer")
    worker.join()
"""


@pytest.mark.parametrize(("call", "said"), [(["train.py"], "42 ['--lr', '1'] __mp_main__"), (["-m", "train"], "42 ")])
def test_a_child_finds_it_in_the_script_it_was_started_from(tmp_path, call, said):
    (tmp_path / "train.py").write_text(CHILD.format(unguarded=""))
    done = subprocess.run(
        [sys.executable, *call, "--lr", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith(said), done.stderr


def test_run_without_the_main_guard_gets_a_sentence(tmp_path):
    (tmp_path / "train.py").write_text(CHILD.format(unguarded="guard()"))
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "no answer\n"
    assert 'if __name__ == "__main__":' in done.stderr


def test_the_guard_speaks_in_workers_alone(monkeypatch):
    scripts.guard()
    monkeypatch.setattr(multiprocessing.current_process(), "name", children.CHILD + "worker-1")
    with pytest.raises(SessionError, match="__main__"):
        scripts.guard()


def test_launch_variables_are_gone_meanwhile(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANKED", "mine")
    with scripts.launch_variables_removed() as found:
        assert found == {"WORLD_SIZE": "4", "LOCAL_RANK": "1"}
        assert "LOCAL_RANK" not in os.environ
        assert "WORLD_SIZE" not in os.environ
        assert os.environ["RANKED"] == "mine"
    assert (os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]) == ("1", "4")
