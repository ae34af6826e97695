"""What an agent and a server say first: nothing is lost on the way, and what differs is explained."""

import dataclasses
import json
import platform
import sys

import pytest
import torch

from tardigrad.arithmetic import Arithmetic
from tardigrad.blueprint import Blueprint
from tardigrad.engines.joined.facts import Facts, ScriptMark, code_digest, compare, digest_of, import_digests, source_of
from tardigrad.engines.joined.greeting import (
    Assignment,
    Hello,
    Resumes,
    ScriptAssignment,
    TaskAssignment,
    blueprint_json,
    blueprint_of_json,
    slots_json,
    slots_of_json,
)
from tardigrad.engines.local.acting import Part
from tardigrad.engines.local.processes import Duty
from tardigrad.errors import InvalidArgument, ProtocolError
from tardigrad.layout import FlatLayout
from tardigrad.session.scripts import Script
from tardigrad.tasks.quadratic import quadratic
from tardigrad.transports.slots import SlotLayout


def train(session, rate):
    """A script's function."""


def plainly(value):
    """As it comes out at the other end of a connection."""
    return json.loads(json.dumps(value))


def a_layout():
    flat = FlatLayout.of([torch.zeros(3, 5), torch.zeros(7)])
    return SlotLayout.of(flat, {"mean": torch.zeros(4), "count": torch.zeros((), dtype=torch.int64)})


def a_blueprint(**changes):
    settings = {"task": "quadratic(dimension=4)", "seed": 3, "threads": 2, "recalibrate": True, "imports": ("my.py",)}
    arithmetic = Arithmetic(torch.device("cpu"), "bfloat16", "channels_last", cuda_graph=False)
    return Blueprint(**settings | {"arithmetic": arithmetic} | changes)


def facts(**changes):
    versions = {"tardigrad": "1.0", "torch": "2.6.0+cpu", "python": "3.11.4"}
    return dataclasses.replace(Facts(versions, "c0de" * 8), **changes)


def test_a_hello_arrives_as_it_was_said():
    mark = ScriptMark("/home/me/train.py", "d1")
    own = Hello.own("place-1", facts(imports={"my.py": "d2"}, script=mark))
    for hello in (own, dataclasses.replace(own, resumes=Resumes("life", 17), wants=3)):
        assert Hello.from_json(plainly(hello.as_json())) == hello


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"place": None},
        {"host": ["red"]},
        {"wants": [1]},
        {"wants": -1},
        {"resumes": {"life": "x"}},
        {"resumes": {"life": "x", "received": "1"}},
        {"versions": 3},
        {"versions": {"torch": 2}},
        {"script": {"path": "x", "digest": None}},
        {"fingerprint": {"code": "c", "imports": {"my.py": 1}}},
    ],
)
def test_a_hello_of_another_form_is_refused(change):
    plain = Hello.own("place", facts()).as_json() | change
    with pytest.raises(ProtocolError, match=r"format 1|no hello"):
        Hello.from_json(plain)


def test_an_assignment_of_a_task_arrives_as_it_was_given(tmp_path):
    (tmp_path / "my.py").write_text("number = 1\n")
    blueprint = a_blueprint(imports=(str(tmp_path / "my.py"),))
    task = TaskAssignment.of(Duty(2, blueprint, 0.5), a_layout(), "1a2b")
    assert task.imports == {"my.py": digest_of(tmp_path / "my.py")}
    given = Assignment("life", 2, 1, task=task)
    got = Assignment.from_json(plainly(given.as_json()))
    assert (got.kind, got.life, got.worker, got.incarnation) == ("task", "life", 2, 1)
    assert got.task.slots == a_layout()
    assert got.task.speed == 0.5
    plain = dataclasses.replace(blueprint, arithmetic=dataclasses.replace(blueprint.arithmetic, device="cpu"))
    assert got.task.blueprint == plain


def test_an_assignment_of_a_script_arrives_as_it_was_given():
    script, part = Script.of(train, (0.1,)), Part(1, 3, 2, 7, 1, "cpu", "fork", rank=0, group=2)
    got = Assignment.from_json(plainly(Assignment("life", 1, 2, script=ScriptAssignment.of(script, part)).as_json()))
    assert got.kind == "script"
    assert got.script.part == part
    assert Script.from_json(got.script.script) == script


@pytest.mark.parametrize(
    "change", [{"worker": None, "life": None, "task": None}, {"task": {}}, {"script": {"part": {}}}]
)
def test_what_is_no_assignment_is_refused(change):
    task = TaskAssignment.of(Duty(0, a_blueprint(imports=())), a_layout(), "1a2b")
    plain = plainly(Assignment("life", 0, 0, task=task).as_json())
    with pytest.raises(ProtocolError, match=r"no assignment|neither"):
        Assignment.from_json(plain | change)


def test_a_blueprint_travels_without_the_places_of_the_servers_machine():
    blueprint = a_blueprint(data_dir="/server/data")
    got = blueprint_of_json(plainly(blueprint_json(blueprint)))
    assert got.data_dir == ""
    assert got.arithmetic.precision == "bfloat16"
    kept = [item.name for item in dataclasses.fields(Arithmetic)]
    assert sorted(plainly(blueprint_json(blueprint))["arithmetic"]) == sorted(kept)


def test_a_task_that_no_name_leads_to_does_not_travel():
    with pytest.raises(InvalidArgument, match="nothing is pickled between machines"):
        blueprint_json(a_blueprint(made=quadratic()))


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "Tensor"},
        {"elements": -1},
        {"elements": 2.5},
        {"size": 64},
        {"buffers": [["mean", "float32", [1 << 40], 128]]},
    ],
)
def test_a_slot_that_cannot_be_is_refused(change):
    assert slots_of_json(plainly(slots_json(a_layout()))) == a_layout()
    with pytest.raises(ProtocolError):
        slots_of_json(plainly(slots_json(a_layout())) | change)


def test_what_is_alike_needs_no_words():
    other = facts(versions={"tardigrad": "1.0", "torch": "2.6.0+cu124", "python": "3.11.9"}, imports={"my.py": "d"})
    assert compare(facts(), other) == ""
    assert compare(facts(script=ScriptMark("a/train.py", "d")), facts(script=ScriptMark("b/train.py", "d"))) == ""
    assert compare(facts(script=ScriptMark("a/train.py", "")), facts(script=ScriptMark("b/train.py", "d"))) == ""


@pytest.mark.parametrize(
    ("server", "agent", "words"),
    [
        ({}, {"versions": {"tardigrad": "1.1", "torch": "2.6.0", "python": "3.11.4"}}, "pip install tardigrad==1.0"),
        ({}, {"versions": {"tardigrad": "1.0", "torch": "2.7.0+cpu", "python": "3.11.4"}}, "pip install torch==2.6.0"),
        ({}, {"versions": {"tardigrad": "1.0", "torch": "2.6.0", "python": "3.12.4"}}, "use Python 3.11.4"),
        ({}, {"code": "beef" * 8}, "source files differ"),
        ({"imports": {"my.py": "d1"}}, {"imports": {"my.py": "d2"}}, "Copy the server's my.py here"),
        ({}, {"script": ScriptMark("x/train.py", "d")}, "leave train.py out"),
        ({"script": ScriptMark("x/train.py", "d")}, {}, "tardigrad join ... train.py"),
        (
            {"script": ScriptMark("x/train.py", "d")},
            {"script": ScriptMark("y/other.py", "e")},
            "other.py is not what the run was started with (train.py)",
        ),
    ],
)
def test_what_differs_is_explained(server, agent, words):
    assert words in compare(facts(**server), facts(**agent))


def test_the_facts_of_this_process():
    own = Facts.own()
    assert own.versions["torch"] == torch.__version__
    assert own.versions["python"] == platform.python_version()
    assert own.code == code_digest()
    assert Facts.from_json(plainly(own.as_json())) == own


def test_a_script_is_marked_by_its_file(tmp_path, monkeypatch):
    script = Script.of(train, (0.1,))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/train.py", raising=False)
    assert ScriptMark.of(script) == ScriptMark("/somewhere/train.py", "")
    assert ScriptMark.of(dataclasses.replace(script, module="__main__")) == ScriptMark(__file__, script.digest)
    assert ScriptMark.of_file(__file__).digest == script.digest


def test_sources_are_found_without_importing_anything(tmp_path, monkeypatch):
    package = tmp_path / "kept"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "inner.py").write_text("x = 1\n")
    (tmp_path / "plain.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source_of("kept.inner") == package / "inner.py"
    assert source_of("kept.nothing") is None
    assert source_of("sys") is None
    assert source_of("kept.inner", folders=[str(package)]) is None
    names = ["kept.inner", str(tmp_path / "plain.py"), "nowhere.py", "no.module"]
    assert import_digests(names) == {
        "kept.inner": digest_of(package / "inner.py"),
        "plain.py": digest_of(tmp_path / "plain.py"),
    }
