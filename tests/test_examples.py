"""What readers copy works: examples print what is written beside them, pages show them as they are."""

import ast
import doctest
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

import tardigrad
import tardigrad.errors
from tardigrad.cli import COMMANDS, main
from tardigrad.commands.replay import ReplayOptions
from tardigrad.commands.run import RunOptions, split_script
from tardigrad.commands.serve import ServeOptions
from tardigrad.listing import KINDS
from tardigrad.options import ExportOptions, JoinOptions, ResumeOptions, StatusOptions, WorkersOptions

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
EXPECTED = ROOT / "examples" / "expected"
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])

_NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)(?P<rest>[^\n]*)\n(?P<body>.*?)^(?P=indent)```", re.M | re.S)
_TITLE = re.compile(r'title="(examples/[\w/]+\.py)"')


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    rest: str
    text: str


def blocks(*languages):
    """The fenced blocks in one of the languages, of all pages, in order."""
    found = []
    for page in PAGES:
        for match in _FENCE.finditer(page.read_text()):
            if match["language"] in languages:
                lines = [line.removeprefix(match["indent"]) for line in match["body"].splitlines()]
                found.append(Block(page.name, match["language"], match["rest"], "\n".join(lines) + "\n"))
    return found


def same(want, got):
    """Whether two texts agree: words exactly, whole numbers exactly, decimals nearly.

    The last digits of a trained network differ from one kind of processor to another.
    """
    if [w.split() for w in _NUMBER.sub("#", want).split("\n")] != [
        g.split() for g in _NUMBER.sub("#", got).split("\n")
    ]:
        return False
    pairs = zip(_NUMBER.findall(want), _NUMBER.findall(got), strict=True)
    return all(a == b or ("." in a + b and near(a, b)) for a, b in pairs)


def near(a, b):
    """Within a tenth, or two in the last digit that is written."""
    last = 10.0 ** -len(a.partition(".")[2].partition("e")[0])
    return math.isclose(float(a), float(b), rel_tol=0.1, abs_tol=2.1 * last if "e" not in a else 0.0)


@pytest.fixture(autouse=True)
def forget_what_is_registered(monkeypatch):
    """A page's rules and tasks are known on that page only."""
    for registry in KINDS.values():
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(ROOT / "examples") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


class NumbersMayDiffer(doctest.OutputChecker):
    """Doctest's own comparison, or `same`."""

    def check_output(self, want, got, optionflags):
        return super().check_output(want, got, optionflags) or same(want.rstrip(), got.rstrip())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_prints_what_is_expected(example, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, str(example)]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    want = (EXPECTED / f"{example.stem}.txt").read_text()
    assert same(want, done.stdout), f"expected:\n{want}\nprinted:\n{done.stdout}"


def test_every_expectation_has_its_example():
    assert {path.stem for path in EXPECTED.iterdir()} == {path.stem for path in EXAMPLES}


@pytest.mark.parametrize(
    ("want", "got", "agree"),
    [
        ("error 5.2 %", "error  5.4 %", True),
        ("error 5.2 %", "error 6.2 %", False),
        ("7 commits", "8 commits", False),
        ("loss 1.61e+07", "loss 1.6e+07", True),
        ("loss 1.61e+07", "loss 1.61e+06", False),
        ("loss 1.0", "loss nan", False),
        ("dc-asgd 0.001", "dc-asgd-a 0.001", False),
    ],
)
def test_how_outputs_are_compared(want, got, agree):
    assert same(want, got) is agree


def test_pages_show_whole_examples():
    """A block with the title of an example is that file; every example stands on a page."""
    shown = set()
    for block in blocks("python"):
        for name in _TITLE.findall(block.rest):
            shown.add(name)
            assert block.text == (ROOT / name).read_text(), f"{block.page} shows an older {name}"
    assert shown == {f"examples/{path.name}" for path in EXAMPLES}


def test_python_on_pages_is_python():
    for block in blocks("python"):
        ast.parse(block.text, filename=block.page)


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("pycon")}))
def test_sessions_on_pages(page, tmp_path, monkeypatch):
    """The Python sessions of a page print what they show, one after the other in one interpreter."""
    monkeypatch.chdir(tmp_path)
    text = "\n".join(block.text for block in blocks("pycon") if block.page == page)
    session = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    report = []
    runner = doctest.DocTestRunner(NumbersMayDiffer(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert session.examples
    assert runner.run(session, out=report.append).failed == 0, "".join(report)


def commands():
    """(page, words after ``$ tardigrad``, what is shown below it) of every command on the pages."""
    found = []
    for block in blocks("console", "bash", "sh"):
        for part in re.split(r"^\$ ", block.text, flags=re.M)[1:] if block.language == "console" else [block.text]:
            line, _, output = part.replace("\\\n", " ").partition("\n")
            if line.startswith("tardigrad"):
                found.append((block.page, line, output.strip("\n")))
    return found


OF_A_RUN = {
    ("train", "--resume"): ResumeOptions,
    ("serve", "--resume"): ResumeOptions,
    ("status",): StatusOptions,
    ("workers",): WorkersOptions,
    ("export",): ExportOptions,
    ("replay",): ReplayOptions,
}
"""Commands whose run is the reader's: that their options are understood is all that can be tried."""


@pytest.mark.parametrize(("page", "line", "shown"), sorted(set(commands())), ids=lambda value: value[:60])
def test_commands_on_pages(page, line, shown, monkeypatch, capsys):
    """Every command on a page is one: it answers, its dry run is accepted, its refusal reads as shown."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)[1:]
    if words[:1] == ["report"]:
        words = ["report", "--help"]  # the runs it names are the reader's
    if words[:1] == ["run"]:  # the script is the reader's
        before, script, _its_own = split_script(words[1:])
        tyro.cli(RunOptions, args=before)
        assert script is not None
        return
    if words[:1] == ["join"]:  # the server is the reader's
        tyro.cli(JoinOptions, args=split_script(words[1:])[0])
        return
    if words[:1] == ["serve"] and any(word.endswith(".py") for word in words):
        tyro.cli(ServeOptions, args=split_script(words[1:])[0])
        return
    for command, options in OF_A_RUN.items():
        if words[: len(command)] == [*command] and not shown.startswith("tardigrad: "):
            tyro.cli(options, args=words[len(command) :])
            return
    if "cifar10" in line and words[:1] in (["train"], ["compare"]) and "TARDIGRAD_DATA" not in os.environ:
        pytest.skip("CIFAR-10 is not in TARDIGRAD_DATA")
    if words[:1] in (["train"], ["serve"], ["compare"]) and not {"--dry-run", "--help"} & set(words):
        words = [*words, "--dry-run"]
    assert not words or words[0].startswith("-") or words[0] in COMMANDS or shown.startswith("tardigrad: ")
    try:
        status = main(words)
    except SystemExit as end:  # --help
        status = end.code
    out, err = capsys.readouterr()
    if shown.startswith("tardigrad: "):
        assert status == 2
        assert " ".join(shown.split()) == " ".join(err.split())
    else:
        assert not status, err
    if words[:1] in (["list"], ["--help"], ["--version"]) and shown:
        assert shown == out.strip("\n"), f"{page} shows an older output of: {line}"


def test_make_targets_on_pages():
    """`make something` names a target."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {word for page in PAGES for word in re.findall(r"(?:^\$ |`)make ([a-z]+)", page.read_text(), re.M)}
    assert named <= targets


def test_errors_on_the_reference_page():
    """The tree of errors is the one at the top of the module."""
    tree = tardigrad.errors.__doc__.split("\n\n", 1)[1].strip()
    assert [block.text.strip() for block in blocks("text") if block.page == "reference.md"] == [tree]


def test_layers_on_the_design_page():
    """The design page shows the layers that import-linter enforces (those in brackets are still to come)."""
    contract = re.search(r"^layers = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)[1]
    whole = [[word for word in re.split(r"[\s|:]+", line) if word] for line in re.findall(r'"(.*)"', contract)]
    missing = {word for line in whole for word in line if not (ROOT / "src/tardigrad" / word.strip("()")).is_dir()}
    missing = {word for word in missing if not (ROOT / f"src/tardigrad/{word.strip('()')}.py").exists()}
    present = [[word.strip("()") for word in line if word not in missing] for line in whole]
    shown = next(block for block in blocks("text") if block.page == "design.md" and block.text.startswith("cli "))
    lines = [re.split(r"\s{2,}", line)[0] for line in shown.text.splitlines()]
    assert [sorted(line.split(" | ")) for line in lines] == [sorted(line) for line in present if line]
