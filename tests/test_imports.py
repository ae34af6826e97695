"""Imports asked for by name: modules and files that register things."""

import sys

import pytest

from tardigrad.cli import main
from tardigrad.errors import InvalidArgument
from tardigrad.imports import import_all


def test_a_file_is_run_once_and_takes_nobodys_name(tmp_path, capsys):
    import statistics

    (tmp_path / "statistics.py").write_text("print('imported')\n")
    import_all([str(tmp_path / "statistics.py")])
    import_all([str(tmp_path / "statistics.py")])
    assert capsys.readouterr().out == "imported\n"
    assert sys.modules["statistics"] is statistics


def test_two_files_of_one_name_are_two_modules(tmp_path, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"print('{folder}')\n")
    import_all([str(tmp_path / folder / "mine.py") for folder in ("one", "two")])
    assert capsys.readouterr().out == "one\ntwo\n"


@pytest.mark.parametrize("name", ["no_such_module", "no_such.module", "nowhere.py"])
def test_what_is_not_there_gets_a_sentence(name):
    with pytest.raises(InvalidArgument, match="imports: there is no"):
        import_all([name])


def test_an_error_inside_is_not_hidden(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_thing_inside\n")
    for _ in range(2):  # a second try fails alike: a half-run module is not kept
        with pytest.raises(ModuleNotFoundError, match="no_such_thing_inside"):
            import_all([str(tmp_path / "broken.py")])


RECIPE = """
from tardigrad.config import RunConfig
from tardigrad.recipes import RECIPES

def mine():
    \"\"\"A quick quadratic.\"\"\"
    return RunConfig(task="quadratic", epochs=1, workers=2, batch_size=64)

RECIPES.register("mine", mine)
"""


def test_a_recipe_of_ones_own_trains_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes.py").write_text(RECIPE)
    assert main(["train", "mine", "--imports", "recipes.py", "--lr", "0.05"]) == 0
    assert "runs/mine/dc-asgd-w2-lr0.05" in capsys.readouterr().out
