"""Capture triggers: refused arguments and tables, and the rights that a change needs."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, InvalidParameterValue

from tests.fix_capture import ENCODINGS, Capture

# Refusals


@pytest.mark.parametrize("function", ENCODINGS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backups"], "unknown trigger argument: backups"),
        (["where=true"], "unknown trigger argument: where=true"),
        (["ev_extra5=1"], "unknown trigger argument: ev_extra5=1"),
        (["SKIP=1"], "unknown trigger argument: SKIP=1"),
        (["ignore"], "unknown trigger argument: ignore"),
        ([""], "unknown trigger argument: "),
        (["when= "], "trigger argument without a value: when="),
        (["pkey=id", "pkey=a"], "trigger argument given twice: pkey=a"),
        (["backup", "ev_extra2=1"], "backup and ev_extra2"),
        (["SKIP"], "AFTER trigger .* with these arguments"),
        (["pkey=id,nosuch"], "unknown column in trigger arguments: nosuch"),
        (["ignore=ID"], "unknown column in trigger arguments: ID"),
    ],
)
def test_bad_trigger_arguments_are_refused(
    capture: Capture, function: str, arguments: list[str], message: str
) -> None:
    capture.run("create table item (id int primary key, a int)")
    capture.attach("item", function, *arguments)
    with pytest.raises(InvalidParameterValue, match=message) as raised:
        capture.run("insert into item values (1)")
    assert raised.value.diag.message_hint


@pytest.mark.parametrize("function", ENCODINGS)
@pytest.mark.parametrize("arguments", ["", "''"])
def test_a_queue_must_be_named(capture: Capture, function: str, arguments: str) -> None:
    capture.run(
        "create table item (id int)",
        f"""
        create trigger capture after insert on item
            for each row execute function pgque.{function}({arguments})
        """,
    )
    with pytest.raises(InvalidParameterValue, match="must be the name of a queue"):
        capture.run("insert into item values (1)")


@pytest.mark.parametrize("function", ENCODINGS)
def test_capture_into_an_unknown_queue_fails(capture: Capture, function: str) -> None:
    capture.run("create table item (id int primary key)")
    capture.attach("item", function, queue="nosuch")
    with pytest.raises(psycopg.Error, match="queue not found: nosuch") as raised:
        capture.run("insert into item values (1)")
    assert raised.value.sqlstate == "PQ001"


@pytest.mark.parametrize("function", ENCODINGS)
def test_only_row_triggers_on_tables_are_allowed(capture: Capture, function: str) -> None:
    capture.run("create table item (id int)", "create view items as table item")
    capture.attach("item", function, on="insert", level="statement")
    capture.attach("item", function, on="truncate", level="statement", name="truncation")
    capture.attach("items", function, timing="instead of")
    capture.conn.commit()
    for statement in ("insert into item", "truncate item", "insert into items"):
        values = " values (1)" if statement.startswith("insert") else ""
        with pytest.raises(InvalidParameterValue, match="cannot be an") as raised:
            capture.run(statement + values)
        assert "for each row" in (raised.value.diag.message_hint or "")
        capture.conn.rollback()


# Rights


def test_a_change_needs_no_right_beyond_pgque_writer(capture: Capture) -> None:
    capture.run(
        """
        create table item (
            id int primary key,
            a text,
            g int generated always as (id) stored,
            ignored int
        )
        """,
        "grant select, insert, update, delete on item to pgque_writer",
    )
    for timing in ("before", "after"):
        arguments = ("backup", "ignore=ignored", "ev_extra4=current_user")
        capture.attach_all("item", *arguments, timing=timing)
    capture.run(
        "set role pgque_writer",
        "insert into item values (1, 'a b')",
        "update item set a = 'c d'",
        "delete from item",
        "reset role",
    )
    assert [event.extra4 for event in capture.events()] == ["pgque_writer"] * 18


def test_a_change_needs_pgque_writer(capture: Capture) -> None:
    capture.run("create table item (id int)", "grant insert on item to pgque_reader")
    capture.attach("item", "jsontriga")
    capture.run("set role pgque_reader")
    with pytest.raises(InsufficientPrivilege):
        capture.run("insert into item values (1)")


def test_expressions_run_with_the_rights_of_the_session(capture: Capture) -> None:
    capture.run(
        "create table item (id int)",
        "create table secret (word text)",
        "grant insert on item to pgque_writer",
    )
    capture.attach("item", "jsontriga", "ev_extra3=(select word from secret)")
    capture.run("insert into item values (1)", "set role pgque_writer")
    with pytest.raises(InsufficientPrivilege, match="secret"):
        capture.run("insert into item values (2)")


def test_expressions_use_the_search_path_of_the_session(capture: Capture) -> None:
    capture.run(
        "create table item (id int)",
        "create schema mine",
        "create function mine.label(int) returns text language sql as $$ select 'No. ' || $1 $$",
    )
    capture.attach("item", "jsontriga", "ev_extra3=label(id)")
    capture.run("set search_path = mine, public", "insert into item values (1)")
    assert [event.extra3 for event in capture.events()] == ["No. 1"]


def test_functions_in_the_search_path_cannot_shadow_built_in_ones(capture: Capture) -> None:
    capture.run("create table item (id int primary key, a text)")
    capture.attach("item", "logutriga", "ignore=id", "when=true")
    for function in ("format(text, variadic text[])", "quote_nullable(text)", "left(text, int)"):
        capture.run(f"create function {function} returns text language sql as $$ select 'bad' $$")
    capture.run(
        "set search_path = public, pg_catalog",
        "insert into item values (1, 'x')",
        "update item set a = 'y'",
        "reset search_path",
    )
    assert [event[:2] for event in capture.events()] == [("I:id", "a=x"), ("U:id", "a=y")]


def test_no_capture_function_is_security_definer(capture: Capture) -> None:
    functions = capture.run(
        """
        select p.proname,
               p.prosecdef,
               obj_description(p.oid, 'pg_proc')
          from pg_proc as p
         where p.pronamespace = 'pgque'::regnamespace
           and p.proname ~ '^_capture|triga$'
        """
    ).fetchall()
    assert {name for name, _, _ in functions} >= {*ENCODINGS, "_capture"}
    assert not any(definer for _, definer, _ in functions)
    assert all(comment for _, _, comment in functions)
