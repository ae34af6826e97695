"""Decisions that are tests: import direction, files, what a cheap command may load, what pages point at."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tardigrad"
FOLDERS = ("src", "tests", "examples", "benchmarks", "docs")
LONGEST = 400
VAGUE = {"utils", "util", "common", "helpers", "helper", "misc"}


def python_files(*folders):
    """Every Python file below the folders, as paths from the root."""
    return sorted(file.relative_to(ROOT) for name in folders for file in (ROOT / name).rglob("*.py"))


def pages():
    """Everything a reader reads: the top-level pages and the documentation."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def loaded_by(code):
    """The top-level packages in sys.modules after the code has run in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('loaded:', *sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


def command(*words):
    """Code that runs the command line in this interpreter and comes back."""
    return (
        f"sys.argv = ['tardigrad', *{list(words)!r}]\n"
        "from tardigrad.cli import main\n"
        "try:\n    code = main()\nexcept SystemExit as end:\n    code = end.code\n"
        "assert not code, code"
    )


def test_imports_go_downwards(capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    failed = lint_imports(config_filename="pyproject.toml", no_cache=True)
    report, _ = capfd.readouterr()
    assert not failed, report


def test_no_python_file_is_long():
    lengths = {str(file): len((ROOT / file).read_text().splitlines()) for file in python_files(*FOLDERS)}
    assert lengths
    assert {file: lines for file, lines in lengths.items() if lines > LONGEST} == {}


def test_no_file_is_named_after_nothing():
    parts = {file: {part.removesuffix(".py") for part in file.parts} for file in python_files(*FOLDERS)}
    vague = [str(file) for file, names in parts.items() if names & VAGUE]
    assert vague == [], "name a file after its data"


def test_every_module_says_what_it_is():
    modules = {str(file): ast.parse((ROOT / file).read_text()) for file in python_files("src")}
    assert [name for name, module in modules.items() if not ast.get_docstring(module)] == []


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()


def test_no_absolute_path_of_somebodys_machine():
    machine = re.compile(r"(?<![\w.~\-}])/(?:work|home|root|tmp)/")
    folders = (PACKAGE, ROOT / "docs", ROOT / "examples", ROOT / "benchmarks")
    texts = {".py", ".md", ".html", ".css", ".json", ".toml"}
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in texts]
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in [*files, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile"]
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if machine.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import tardigrad",
        "import tardigrad; dir(tardigrad); tardigrad.__version__",
        "import tardigrad.config",
        "import tardigrad.cli",
        command("--help"),
        command("list"),
    ],
    ids=["package", "dir", "config", "cli", "help", "list"],
)
def test_answers_at_once(code):
    """What a newcomer types first loads nothing heavy: it answers in tenths of a second."""
    assert {"torch", "matplotlib", "scipy", "sklearn", "pytest"} & loaded_by(code) == set()


def test_files_that_pages_name_exist():
    """Scripts named in a page, and the targets of its links, are in the repository."""
    scripts = re.compile(r"(?<![\w/])(?:examples|benchmarks)/[\w/.-]*\w\.py\b")
    links = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)|\b(?:src|href)=\"(?!\w+:|#)([^\"#]+)")
    missing = []
    for page in pages():
        text = page.read_text()
        named = [(ROOT, name) for name in scripts.findall(text)]
        named += [(page.parent, first or second) for first, second in links.findall(text)]
        missing += [f"{page.name}: {name}" for folder, name in named if not (folder / name).exists()]
    assert missing == []


def test_documentation_builds(tmp_path):
    """No page missing or left out of the navigation, no dead link or anchor, every documented name importable."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_version_is_the_same_everywhere():
    version = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "_version.py").read_text(), re.MULTILINE)
    assert version, "src/tardigrad/_version.py has no line __version__ = ..."
    assert f"\nversion: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()
