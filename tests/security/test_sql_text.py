"""Rules for the text of sql/, by PostgreSQL's own parser (pglast)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from pglast import ast, parse_plpgsql, parse_sql
from pglast.parser import ParseError, scan
from pglast.stream import RawStream
from pglast.visitors import Visitor

from pgque.install import script, sql_files
from tests.fix_engine import Connection, value
from tests.security.fix_security import record


def functions() -> Iterator[tuple[str, ast.CreateFunctionStmt]]:
    for file in sql_files():
        for raw in parse_sql(file.read_text()):
            if isinstance(raw.stmt, ast.CreateFunctionStmt):
                yield ".".join(part.sval for part in raw.stmt.funcname), raw.stmt


def options(function: ast.CreateFunctionStmt) -> dict[str, Any]:
    return {option.defname: option.arg for option in function.options}


def test_the_parser_can_read_every_file():
    statements = sum(len(parse_sql(file.read_text())) for file in sql_files())
    assert statements > 300
    assert all(file.read_text().strip() in script() for file in sql_files())
    # The script adds two pairs of begin and commit, a block for the roles, a lock and a check.
    assert len(parse_sql(script())) == statements + 7


def test_every_function_is_in_the_schema_and_can_be_replaced():
    names = set()
    for name, function in functions():
        assert name.startswith("pgque."), name
        assert function.replace, name
        names.add(name)
    assert len(names) > 100


class Names(Visitor):  # type: ignore[misc]
    """Collects the names in a statement that have no schema."""

    def __init__(self) -> None:
        self.unqualified: list[str] = []
        self.relations: list[str] = []
        self.known: set[str] = set()

    def visit_CommonTableExpr(self, _: Any, node: ast.CommonTableExpr) -> None:  # noqa: N802
        self.known.add(node.ctename)

    def visit_FuncCall(self, _: Any, node: ast.FuncCall) -> None:  # noqa: N802
        if len(node.funcname) == 1:
            self.unqualified.append(f"{node.funcname[0].sval}()")

    def visit_RangeVar(self, _: Any, node: ast.RangeVar) -> None:  # noqa: N802
        if node.schemaname is None:
            self.relations.append(node.relname)

    def visit_TypeName(self, _: Any, node: ast.TypeName) -> None:  # noqa: N802
        if len(node.names) == 1:
            self.unqualified.append(node.names[0].sval)


def unqualified(statement: str) -> list[str]:
    names = Names()
    for raw in parse_sql(statement):
        names(raw.stmt)
    return names.unqualified + [name for name in names.relations if name not in names.known]


def expressions(tree: Any) -> Iterator[str]:
    """Yield every statement and expression in the tree of a PL/pgSQL function."""
    if isinstance(tree, dict):
        if "PLpgSQL_expr" in tree:
            yield tree["PLpgSQL_expr"]["query"]
        for part in tree.values():
            yield from expressions(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from expressions(part)


def as_statement(expression: str) -> str:
    begins = expression.lstrip().lower()
    if begins.startswith(("select", "with", "insert", "update", "delete")):
        return expression
    return f"select {expression.split(':=', 1)[-1]}"


def test_functions_with_the_callers_search_path_qualify_every_name(shared: Connection):
    """This includes PostgreSQL's own functions and types, but not operators.

    Capture triggers are exempt, because the table's owner writes the names in their expressions.
    """
    checked = 0
    for name, function in functions():
        public = name.removeprefix("pgque.")
        given = options(function)
        pinned = any(isinstance(option.arg, ast.VariableSetStmt) for option in function.options)
        internal = public.startswith("_") and public not in ("_send_batch", "_seek_to")
        if pinned or internal or public in ("uninstall", "jsontriga", "logutriga", "sqltriga"):
            continue
        body = given["as"][0].sval
        if given["language"].sval == "sql":
            statements = [body]
        else:
            # The parser has no catalog to look up the type.
            tree = parse_plpgsql(RawStream()(function).replace("pgque.message", "record"))
            statements = [as_statement(text) for text in expressions(tree)]
        if public == "ticker_loop":
            assert statements
            continue  # for the admin only; it commits, so it cannot pin a search path
        for statement in statements:
            checked += 1
            assert unqualified(statement) == [], (name, statement)
    assert checked > 30
    record(
        "names resolved with the caller's search_path", shared, statements=checked, unqualified=0
    )


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("select pgque.f(1::int4), now()", ["now()", "int4"]),
        ("select a::text from queue", ["queue", "text"]),
        ("with q as (select 1 as n) select pg_catalog.abs(n) from q", []),
    ],
)
def test_the_rule_finds_unqualified_names(statement: str, found: list[str]):
    assert sorted(unqualified(statement)) == sorted(found)


def test_the_installed_functions_are_those_in_the_files(shared: Connection):
    names = {name for name, _ in functions()}
    installed = value(
        shared,
        "select array_agg(distinct 'pgque.' || proname) from pg_proc "
        "where pronamespace = 'pgque'::regnamespace",
    )
    assert set(installed) - names == {"pgque._append"}  # made by _make_append
    assert names <= set(installed)


def plain_literals(text: str) -> Iterator[str]:
    """Yield literals without E, including those in function bodies and nested in literals."""
    for token in scan(text):
        written = text[token.start : token.end + 1]
        if token.name == "SCONST" and written.startswith("$"):
            tag = written[: written.index("$", 1) + 1]
            yield from plain_literals(written[len(tag) : -len(tag)])
        elif token.name == "SCONST" and written.startswith("'"):
            yield written
            inside = written[1:-1].replace("''", "'")
            if "'" in inside:
                with contextlib.suppress(ParseError):
                    yield from plain_literals(inside)


def test_no_plain_literal_has_a_backslash():
    """It would change its meaning if standard_conforming_strings is off, unlike in E''."""
    found = [
        (file.name, literal)
        for file in sql_files()
        for literal in plain_literals(file.read_text())
        if "\\" in literal
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"select 'a\b'", [r"'a\b'"]),
        (r"select E'a\\b', 'c'", ["'c'"]),
        (r"do $$ begin perform f('\d'); end $$", [r"'\d'"]),
        (r"do $a$ begin execute 'select ''\d'''; end $a$", [r"'select ''\d'''", r"'\d'"]),
    ],
)
def test_the_rule_finds_literals(text: str, found: list[str]):
    assert list(plain_literals(text)) == found
