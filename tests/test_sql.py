"""The engine's files can be read from top to bottom: none calls a function of a later file."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgque.install import sql_files

MOST_LINES = 400

DEFINITION = re.compile(r"create (?:or replace )?(?:function|procedure) pgque\.(\w+)")
CALL = re.compile(r"pgque\.(\w+)\s*\(")
NO_CALL = re.compile(
    r"--[^\n]*|\bhint = [^\n]*|^comment on .*?;$|\bdrop function [^;]*;|to_regprocedure\([^)]*\)",
    re.DOTALL | re.MULTILINE,
)
"""Comments and advice may name any function, and so may lookups and drops of older versions."""


def definitions(files: list[tuple[str, str]]) -> dict[str, str]:
    """The first file that defines each name."""
    found: dict[str, str] = {}
    for name, text in files:
        for function in DEFINITION.findall(text):
            found.setdefault(function, name)
    return found


def forward_references(files: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Each call of a function that only a later file defines: the file, the function, that file."""
    home = definitions(files)
    for name, text in files:
        for function in sorted(set(CALL.findall(NO_CALL.sub("", text)))):
            if home.get(function, name) > name:
                yield name, function, home[function]


def read() -> list[tuple[str, str]]:
    return [(file.name, file.read_text()) for file in sql_files()]


def test_no_file_calls_a_function_of_a_later_file() -> None:
    assert list(forward_references(read())) == []


def test_a_forward_reference_is_detected() -> None:
    early = "create function pgque.a() returns int language sql as $$ select pgque.b() $$;"
    late = "create function pgque.b() returns int language sql as $$ select 1 $$;"
    assert list(forward_references([("1", early), ("2", late)])) == [("1", "b", "2")]
    assert list(forward_references([("1", late), ("2", early)])) == []
    assert list(forward_references([("1", "-- see pgque.b()\n"), ("2", late)])) == []


@pytest.mark.parametrize("file", sql_files(), ids=lambda file: file.name)
def test_files_are_short(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= MOST_LINES


def test_files_are_cited_by_name_without_number() -> None:
    root = Path(__file__).parent.parent
    pages = [*root.glob("sql/*.sql"), *root.glob("docs/**/*.md"), *root.glob("*.md")]
    code = [*root.glob("pgque/**/*.py"), *root.glob("tests/**/*.py"), *root.glob("bench/**/*.py")]
    # Code may open a file by its quoted name.
    numbered = dict.fromkeys(pages, r"\b\d\d_[a-z_]+\.sql\b")
    numbered |= dict.fromkeys(code, r"(?<!\")\b\d\d_[a-z_]+\.sql\b(?!\")")
    cited = {
        (page.name, found)
        for page, pattern in numbered.items()
        for found in re.findall(pattern, page.read_text(encoding="utf-8"))
    }
    assert cited == set()
