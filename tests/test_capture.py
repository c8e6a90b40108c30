"""Change capture: the events that the row triggers of sql/capture send, and their settings."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

import psycopg
import pytest

from tests.fix_capture import ENCODINGS, Capture

# The three encodings


def test_jsontriga_sends_the_row_as_json(capture: Capture) -> None:
    capture.run("create table item (id int primary key, name text, price numeric(8, 2))")
    capture.attach("item", "jsontriga")
    capture.run(
        """insert into item values (1, 'a "b" \\ é', 1.50)""",
        "update item set price = null",
        "delete from item",
    )
    events = capture.events()
    assert [json.loads(event.type) for event in events] == [
        {"op": operation, "table": ["public", "item"], "pkey": ["id"]}
        for operation in ("INSERT", "UPDATE", "DELETE")
    ]
    assert events[0].data == '{"id":1,"name":"a \\"b\\" \\\\ é","price":1.50}'
    assert events[1].row == events[2].row == {"id": 1, "name": 'a "b" \\ é', "price": None}
    assert {event[2:] for event in events} == {("public.item", None, None, None)}


def test_logutriga_sends_the_row_url_encoded(capture: Capture) -> None:
    capture.run("create table item (a int, b text, c boolean, primary key (b, a))")
    capture.attach("item", "logutriga")
    capture.run(
        "insert into item values (1, 'x y', true)",
        "update item set c = null",
        "delete from item",
    )
    assert capture.events() == [
        ("I:b,a", "a=1&b=x%20y&c=t", "public.item", None, None, None),
        ("U:b,a", "a=1&b=x%20y&c", "public.item", None, None, None),
        ("D:b,a", "a=1&b=x%20y&c", "public.item", None, None, None),
    ]


def test_urllib_decodes_logutriga(capture: Capture) -> None:
    values = ["", " ", "+", "a=b&c;d", "100%", "a\nb\r\t", "Zoë", "日本語 テキスト", "🐘🐘 x"]
    values += ["\\x00", "~-._", "%41", "'\""]
    capture.run('create table item ("a b&=é" text)')
    capture.attach("item", "logutriga")
    for value in values:
        capture.conn.execute("insert into item values (%s)", [value])
    events = capture.events()
    assert [parse_qsl(event.data, keep_blank_values=True) for event in events] == [
        [("a b&=é", value)] for value in values
    ]
    for event in events:
        assert event.data.isascii()
        assert not {" ", "+"} & set(event.data)


def test_logutriga_encodes_long_values_in_linear_time(capture: Capture) -> None:
    value = "long é, " * 60_000
    capture.run("create table item (body text)", "set statement_timeout = '20s'")
    capture.attach("item", "logutriga")
    capture.conn.execute("insert into item values (%s)", [value])
    (event,) = capture.events()
    assert parse_qsl(event.data) == [("body", value)]


def test_sqltriga_sends_sql_fragments(capture: Capture) -> None:
    capture.run(
        """
        create table item (
            id int,
            part text,
            "Weird ""name" text,
            "order" int,
            primary key (part, id)
        )
        """
    )
    capture.attach("item", "sqltriga")
    capture.run(
        r"""insert into item values (1, 'it''s', 'back\slash', null)""",
        """update item set "order" = 2, "Weird ""name" = null""",
        "update item set id = 7",
        "delete from item",
    )
    assert [(event.type, event.data) for event in capture.events()] == [
        ("I", r"""(id,part,"Weird ""name","order") values ('1','it''s',E'back\\slash',null)"""),
        ("U", """"Weird ""name"=null,"order"='2' where part='it''s' and id='1'"""),
        ("U", "id='7' where part='it''s' and id='1'"),
        ("D", "part='it''s' and id='7'"),
    ]


def test_sqltriga_compares_a_null_key_with_is_null(capture: Capture) -> None:
    capture.run("create table item (a int, b int)")
    capture.attach("item", "sqltriga", "pkey=a")
    capture.run(
        "insert into item values (null, 1)",
        "update item set b = 2",
        "update item set a = 3",
        "update item set a = null",
        "delete from item",
    )
    assert [event.data for event in capture.events()] == [
        "(a,b) values (null,'1')",
        "b='2' where a is null",
        "a='3' where a is null",
        "a=null where a='3'",
        "a is null",
    ]


# Values of every type

MANY_TYPES = """
    id bigint primary key, flag boolean, f4 real, f8 double precision, n numeric, c char(5),
    v varchar(9), by bytea, ts timestamp, tz timestamptz, d date, iv interval, ip inet, u uuid,
    j json, jb jsonb, ia int[], ta text[], pair pair, dom positive, r int4range, m mood,
    "Quoted, ""Name" text
"""
MANY_VALUES = r"""
    (1, true, 0.1, 0.1::float8 + 0.2, 1.10, 'ab',
     '', '\x00ff5c27', '2024-02-29 12:00:00.123456', '2024-02-29 12:00:00+05', '0044-03-15 BC',
     '1 year -2 days 03:04:05.6', '10.0.0.1', '00000000-0000-0000-0000-000000000001',
     '{"b":  1, "a": "\u0000", "a": 2}', '{"b": 1}', '{{1,2},{3,null}}',
     array['a,b', 'null', null, '"', '\'], row(null, 'x,"y'), 5, '[1,5)', 'so so', 'q'),
    (2, false, 'nan', '-infinity', 'nan', '',
     ' ', '', 'infinity', '-infinity', 'infinity', '0', '::1/64',
     '00000000-0000-0000-0000-000000000002', 'null', 'null', '{}',
     '{}', row(null, null), 1, 'empty', 'so so', ''),
    (3, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
     null, null, null, null, null, null, null, null)
"""


@pytest.fixture
def many(capture: Capture) -> Capture:
    """An empty table `many`, with one column for each type worth testing."""
    capture.run(
        "create type pair as (a int, b text)",
        "create domain positive as int check (value > 0)",
        "create type mood as enum ('so so')",
        f"create table many ({MANY_TYPES})",
    )
    return capture


def test_sqltriga_replays_every_type(many: Capture) -> None:
    many.run("create table replica (like many including all)")
    many.attach("many", "sqltriga")
    heads = {
        "I": "insert into replica ",
        "U": "update replica set ",
        "D": "delete from replica where ",
    }
    for change in (
        f"insert into many values {MANY_VALUES}",
        """
        update many
           set (flag, f8, c, by, tz, j, ta, pair, id) = (
                   select flag, f8, c, by, tz, j, ta, pair, many.id + 10
                     from many as other
                    where other.id = 4 - many.id)
        """,
        "delete from many where id <> 12",
    ):
        many.run(change)
        for event in many.events():
            assert many.run(heads[event.type] + event.data).rowcount == 1
        original = many.run("select t::text from many as t order by id").fetchall()
        assert many.run("select t::text from replica as t order by id").fetchall() == original
        assert original


def test_values_are_written_by_their_output_functions(many: Capture) -> None:
    many.attach("many", "logutriga")
    many.run(f"insert into many values {MANY_VALUES}")
    first, second, third = (
        dict(parse_qsl(event.data, keep_blank_values=True)) for event in many.events()
    )
    assert first["flag"] == "t"
    assert first["c"] == "ab   "
    assert first["ip"] == "10.0.0.1"
    assert first["by"] == r"\x00ff5c27"
    assert first["j"] == r'{"b":  1, "a": "\u0000", "a": 2}'
    assert first["ia"] == "{{1,2},{3,NULL}}"
    assert second["pair"] == "(,)"
    assert set(third.values()) == {"3", ""}


def test_values_do_not_depend_on_the_session(many: Capture) -> None:
    many.attach_all("many", "ev_extra3=tz", "ev_extra4=f8")
    many.run(f"insert into many values {MANY_VALUES}")
    before = many.events()
    many.run("create table twin as table many", "delete from many")
    assert len(many.events()) == len(before)
    many.run(
        "set datestyle = 'German, DMY'",
        "set intervalstyle = 'sql_standard'",
        "set timezone = 'Asia/Kolkata'",
        "set extra_float_digits = -15",
        "set bytea_output = 'escape'",
        "insert into many select * from twin order by id",
    )
    assert many.events() == before
    assert many.run("show timezone").fetchone() == ("Asia/Kolkata",)


# The arguments


def test_backup_also_sends_the_old_row(capture: Capture) -> None:
    capture.run("create table item (id int primary key, a text, secret text)")
    capture.attach_all("item", "backup", "ignore=secret")
    capture.run("insert into item values (1, 'old', 'x')")
    assert {event.extra2 for event in capture.events()} == {None}
    old_row = ['{"id":1,"a":"old"}', "id=1&a=old", "(id,a) values ('1','old')"]
    capture.run("update item set a = 'new', id = 2")
    assert [event.extra2 for event in capture.events()] == old_row
    capture.run("update item set a = 'old', id = 1", "delete from item")
    assert [event.extra2 for event in capture.events()][3:] == old_row


@pytest.mark.parametrize("function", ENCODINGS)
def test_ignored_columns_are_left_out(capture: Capture, function: str) -> None:
    capture.run('create table item (id int primary key, a text, b text, "C d" json)')
    capture.attach("item", function, 'ignore= b , "C d"')
    capture.run(
        """insert into item values (1, 'x', 'hidden', '["hidden"]')""",
        "update item set b = null",
        """update item set "C d" = 'null', b = 'hidden'""",
        "update item set a = null, b = 'hidden again'",
        "delete from item",
    )
    events = capture.events()
    assert len(events) == 3
    for event in events:
        assert "hidden" not in event.data
        assert "C" not in event.data


@pytest.mark.parametrize("arguments", [(), ("ignore=b",)])
def test_an_update_without_changes_is_sent(capture: Capture, arguments: tuple[str, ...]) -> None:
    capture.run(
        "create table item (id int primary key, a text, b text)",
        "insert into item values (1, 'x', 'y')",
    )
    capture.attach_all("item", *arguments)
    capture.run("update item set b = b")
    as_json, as_log, as_sql = capture.events()
    assert as_json.row["a"] == "x"
    assert as_log.data.startswith("id=1&a=x")
    assert as_sql.data == "id='1' where id='1'"


def test_a_change_from_null_to_json_null_counts(capture: Capture) -> None:
    capture.run(
        "create table item (id int primary key, a json, b int)",
        "insert into item values (1, null, 1)",
    )
    capture.attach("item", "jsontriga", "ignore=b")
    capture.run("update item set a = 'null', b = 2")
    assert len(capture.events()) == 1


def test_pkey_sets_the_key_columns(capture: Capture) -> None:
    capture.run('create table item (id int primary key, a int, "B" int)')
    capture.attach_all("item", "pkey=B, a")
    capture.run("insert into item values (1, 2, 3)", "update item set id = 4")
    events = capture.events()
    assert json.loads(events[0].type)["pkey"] == ["B", "a"]
    assert events[1].type == "I:B,a"
    assert events[5].data == """id='4' where "B"='3' and a='2'"""


def test_when_sends_only_rows_that_match(capture: Capture) -> None:
    capture.run("create table item (id int primary key, a int)")
    capture.attach("item", "logutriga", "when=a < 9 and id = any ('{1,2,3}')", "ev_extra3=10 / a")
    capture.run(
        "insert into item values (1, 2), (2, null), (3, 20)",
        "update item set a = 5 where id = 3",
        "delete from item where id < 3",
    )
    assert [(event.type, event.data, event.extra3) for event in capture.events()] == [
        ("I:id", "id=1&a=2", "5"),
        ("U:id", "id=3&a=5", "2"),
        ("D:id", "id=1&a=2", "5"),
    ]


def test_other_expressions_run_only_if_when_is_true(capture: Capture) -> None:
    capture.run("create table item (id int primary key, a int)")
    capture.attach("item", "logutriga", "when=a <> 0", "ev_extra3=100 / a")
    capture.run("insert into item values (1, 0), (2, 5)")
    assert [event.extra3 for event in capture.events()] == ["20"]


def test_expressions_replace_the_defaults(capture: Capture) -> None:
    capture.run('create table item (id int primary key, "Kind of" text)')
    capture.attach(
        "item",
        "jsontriga",
        "ev_type=lower(\"Kind of\") || '=' -- a comment",
        "ev_extra1='it''s'",
        "EV_EXTRA2 = case when id > 1 then id end",
        "ev_extra3=(select count(*) from pg_class where relname = 'item')",
        "ev_extra4=id > 1",
    )
    capture.run("insert into item values (1, 'NEW'), (2, null)", "delete from item where id = 1")
    assert [(event.type, *event[2:]) for event in capture.events()] == [
        ("new=", "it's", None, "1", "false"),
        (None, "it's", "2", "1", "true"),
        ("new=", "it's", None, "1", "false"),
    ]


@pytest.mark.parametrize("function", ENCODINGS)
def test_skip_suppresses_the_change(capture: Capture, function: str) -> None:
    capture.run(
        "create table inlet (id int primary key, a text)",
        "insert into inlet values (1, 'stays')",
    )
    capture.attach("inlet", function, "SKIP", "when=id < 9", timing="before")
    capture.run(
        "insert into inlet values (2, 'x'), (9, 'y')",
        "update inlet set a = 'z'",
        "delete from inlet",
    )
    assert capture.run("table inlet").fetchall() == [(1, "stays")]
    assert len(capture.events()) == 3


def test_before_triggers_return_the_row(capture: Capture) -> None:
    capture.run(
        """
        create table item (
            id int primary key,
            a text,
            g int generated always as (id * 2) stored
        )
        """
    )
    capture.attach_all("item", "ignore=g", "when=id < 9", timing="before")
    capture.run("insert into item values (1, 'x'), (9, 'y')", "update item set a = 'z'")
    rows = capture.run("table item order by id").fetchall()
    assert rows == [(1, "z", 2), (9, "z", 18)]
    capture.run("delete from item")
    assert capture.run("table item").fetchall() == []
    assert len(capture.events()) == 9


@pytest.mark.parametrize("function", ENCODINGS)
@pytest.mark.parametrize("timing", ["before", "after"])
def test_deny_raises_instead_of_sending(capture: Capture, function: str, timing: str) -> None:
    capture.run(
        "create table item (id int primary key, a text, seen int)",
        "insert into item values (1, 'x', 0)",
    )
    capture.attach("item", function, "deny", "ignore=seen", "when=id < 9", timing=timing)
    capture.run("insert into item values (9, 'y', 0)", "update item set seen = 1")
    capture.conn.commit()
    for statement in (
        "insert into item values (2)",
        "update item set a = null",
        "delete from item where id = 1",
    ):
        operation = statement.split()[0].upper()
        with pytest.raises(psycopg.Error, match=f"{operation} on public.item is denied") as raised:
            capture.run(statement)
        assert raised.value.sqlstate == "PQ014"
        capture.conn.rollback()
    assert capture.events() == []
