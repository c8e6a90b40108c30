"""Capture on tables of every shape (sql/capture)."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

import pytest
from psycopg.errors import InvalidParameterValue

from tests.fix_capture import Capture


def test_partitioned_tables_are_captured(capture: Capture) -> None:
    capture.run(
        """
        create table parted (a int, dropped int, b int, t text, primary key (b, a))
            partition by list (a)
        """,
        "create table part_1 partition of parted for values in (1)",
        "create table part_2 (t text, gone int, b int not null, a int not null)",
        "alter table part_2 drop column gone",
        "alter table parted drop column dropped",
        "alter table parted attach partition part_2 for values in (2)",
    )
    capture.attach_all("parted")
    capture.run("insert into parted values (1, 5, 'x')")
    as_json, *_ = capture.events()
    assert json.loads(as_json.type)["table"] == ["public", "part_1"]
    assert json.loads(as_json.type)["pkey"] == ["b", "a"]
    assert as_json.row == {"a": 1, "b": 5, "t": "x"}
    capture.run("update parted set a = 2, t = 'y'")
    events = [event for event in capture.events() if "op" not in event.type]
    assert [event[:3] for event in events] == [
        ("D:b,a", "a=1&b=5&t=x", "public.part_1"),
        ("D", "b='5' and a='1'", "public.part_1"),
        ("I:b,a", "t=y&b=5&a=2", "public.part_2"),
        ("I", "(t,b,a) values ('y','5','2')", "public.part_2"),
    ]


def test_inherited_added_and_dropped_columns_are_handled(capture: Capture) -> None:
    capture.run(
        "create table base (gone int, id int, a text)",
        "create table derived (extra int, primary key (id)) inherits (base)",
    )
    capture.attach("derived", "sqltriga")
    capture.run(
        "insert into derived values (0, 1, 'x', 2)",
        "alter table base drop column gone",
        "alter table base add column later date default '2024-01-31'",
        "update base set a = null",
        "delete from base",
        "insert into derived (id) values (3)",
    )
    assert [event.data for event in capture.events()] == [
        "(gone,id,a,extra) values ('0','1','x','2')",
        "a=null where id='1'",
        "id='1'",
        "(id,a,extra,later) values ('3',null,null,'2024-01-31')",
    ]


def test_names_that_need_quotes_are_captured(capture: Capture) -> None:
    table = """ "My Schema"."T'able""x" """
    capture.run(
        'create schema "My Schema"',
        f'create table {table} ("I d" int primary key, "r" int, "$1" int, "%I" int)',
    )
    capture.attach_all(table, 'ev_extra3="%I"', "ignore=r")
    capture.run(f"insert into {table} values (1, 2, 3, 4)")
    as_json, as_log, as_sql = capture.events()
    assert json.loads(as_json.type)["table"] == ["My Schema", "T'able\"x"]
    assert as_json.row == {"I d": 1, "$1": 3, "%I": 4}
    assert as_log.type == "I:I d"
    assert dict(parse_qsl(as_log.data)) == {"I d": "1", "$1": "3", "%I": "4"}
    assert as_sql.data == """("I d","$1","%I") values ('1','3','4')"""
    assert as_json.extra1 == as_log.extra1 == as_sql.extra1 == "My Schema.T'able\"x"
    assert as_json.extra3 == as_log.extra3 == as_sql.extra3 == "4"


@pytest.mark.parametrize("timing", ["before", "after"])
@pytest.mark.parametrize("kind", ["stored", "virtual"])
def test_generated_columns_are_captured(capture: Capture, timing: str, kind: str) -> None:
    if capture.conn.info.server_version < 180000:
        kind = "stored"  # virtual ones exist since PostgreSQL 18
    capture.run(
        f"""
        create table item (
            id int primary key,
            g numeric(9, 2) generated always as (a * 1.5) {kind},
            a int,
            "G h" text generated always as (upper(b)) {kind},
            b text
        )
        """
    )
    capture.attach_all("item", "ev_extra3=g", "backup", timing=timing)
    capture.run(
        "insert into item values (1, default, 3, default, 'x')",
        "update item set a = 4",
        "delete from item",
    )
    events = capture.events()
    assert [event.data for event in events[::3]] == [
        f'{{"id":1,"g":{g},"a":{a},"G h":"X","b":"x"}}'
        for g, a in (("4.50", 3), ("6.00", 4), ("6.00", 4))
    ]
    before, after = "id=1&g=4.50&a=3&G%20h=X&b=x", "id=1&g=6.00&a=4&G%20h=X&b=x"
    assert [event.data for event in events[1::3]] == [before, after, after]
    assert [event.extra2 for event in events[1::3]] == [None, before, after]
    assert [event.data for event in events[2::3]] == [
        "(id,a,b) values ('1','3','x')",
        "a='4' where id='1'",
        "id='1'",
    ]
    assert [event.extra3 for event in events] == ["4.50"] * 3 + ["6.00"] * 6


def test_a_table_without_a_key_is_captured(capture: Capture) -> None:
    capture.run("create table item (a int)")
    capture.attach("item", "jsontriga")
    capture.attach("item", "logutriga")
    capture.run("insert into item values (1)", "update item set a = 2", "delete from item")
    events = capture.events()
    assert [json.loads(event.type)["pkey"] for event in events[::2]] == [[], [], []]
    assert [event.type for event in events[1::2]] == ["I:", "U:", "D:"]


def test_sqltriga_needs_a_key(capture: Capture) -> None:
    capture.run("create table item (a int)")
    capture.attach("item", "sqltriga")
    capture.run("insert into item values (1)")
    assert [event.data for event in capture.events()] == ["(a) values ('1')"]
    for statement in ("update item set a = 2", "delete from item"):
        with pytest.raises(InvalidParameterValue, match=r"public\.item has no primary") as raised:
            capture.run(statement)
        assert "pkey=" in (raised.value.diag.message_hint or "")
        capture.conn.rollback()


def test_a_wide_table_is_captured(capture: Capture) -> None:
    columns = [f"c{number}" for number in range(1000)]
    definition = ", ".join(f"{column} int default 1" for column in columns)
    capture.run(f"create table wide (id int primary key, {definition})")
    capture.attach_all("wide")
    capture.run("insert into wide values (1)", "update wide set c999 = null")
    events = capture.events()
    assert list(events[0].row) == ["id", *columns]
    assert events[4].data.endswith("&c998=1&c999")
    assert events[5].data == "c999=null where id='1'"


def test_one_session_changes_tables_and_then_their_columns(capture: Capture) -> None:
    capture.run("create table one (id int, a int)", "create table two (b text, id int)")
    for table in ("one", "two"):
        for timing in ("before", "after"):
            capture.attach_all(table, "pkey=id", "ignore=id", "backup", timing=timing)
    change = ("insert into one (id) values (1)", "insert into two (id) values (1)")
    change += ("update one set id = 1", "update two set id = 1", "delete from one")
    for _ in range(7):
        capture.run(*change)
    capture.events()
    capture.run("alter table one alter a type text", "alter table two drop column b", *change)
    inserted, *_ = capture.events()
    assert inserted.data == '{"a":null}'


def test_only_committed_changes_are_sent_in_order(capture: Capture) -> None:
    capture.run("create table item (id int primary key)")
    capture.attach("item", "sqltriga")
    capture.run(
        "insert into item select n from generate_series(1, 500) as n",
        "savepoint undone",
        "delete from item",
        "rollback to savepoint undone",
    )
    capture.conn.commit()
    capture.run("insert into item values (1000)")
    capture.conn.rollback()
    assert [event.data for event in capture.events()] == [
        f"(id) values ('{number}')" for number in range(1, 501)
    ]
