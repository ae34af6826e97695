"""The sentences that the page on scripts promises are those that the package says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your-own-script.md").read_text()
SOURCES = [*(ROOT / "src/tardigrad/session").glob("*.py"), *(ROOT / "src/tardigrad/engines/local").glob("*.py")]


def sentences():
    """Every text in the sources, with a gap for what is filled in."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def promised():
    """What stands in the second column of the page's table of mistakes."""
    table = PAGE.partition("## Mistakes and their sentences")[2].partition("\n## ")[0]
    return re.findall(r"\| `([^|]+)` \|$", table, re.M)


def test_the_page_has_a_table_of_mistakes():
    assert len(promised()) > 20


@pytest.mark.parametrize("words", promised())
def test_a_sentence_on_the_page_is_said_somewhere(words):
    assert any(words in sentence for sentence in sentences())
