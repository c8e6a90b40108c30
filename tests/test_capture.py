"""Change capture: what the row triggers of sql/10_capture.sql send, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, InvalidParameterValue

ENCODINGS = ["jsontriga", "logutriga", "sqltriga"]


class Event(NamedTuple):
    type: str | None
    data: str
    extra1: str | None
    extra2: str | None
    extra3: str | None
    extra4: str | None

    @property
    def row(self) -> dict[str, Any]:
        """The row of an event sent by jsontriga."""
        return json.loads(self.data)


@dataclass
class Capture:
    """A connection whose changes of tables go to a queue, and a consumer of that queue."""

    conn: psycopg.Connection[Any]
    queue: str
    consumer: str

    def run(self, *statements: str) -> psycopg.Cursor[Any]:
        """Execute statements; return the last one's cursor."""
        for statement in statements:
            cursor = self.conn.execute(statement.encode())
        return cursor

    def attach(
        self,
        table: str,
        function: str,
        *arguments: str,
        timing: str = "after",
        on: str = "insert or update or delete",
        level: str = "row",
        name: str | None = None,
        queue: str | None = None,
    ) -> None:
        """Create a capture trigger, by default named as its function and with our queue."""
        values = [self.queue if queue is None else queue, *arguments]
        statement = "create trigger {} {} {} on {} for each {} execute function pgque.{}({})"
        self.conn.execute(
            sql.SQL(statement).format(
                sql.Identifier(name or function),
                sql.SQL(timing),
                sql.SQL(on),
                sql.SQL(table),
                sql.SQL(level),
                sql.Identifier(function),
                sql.SQL(", ").join(map(sql.Literal, values)),
            )
        )

    def attach_all(self, table: str, *arguments: str, timing: str = "after") -> None:
        """Create one trigger for each encoding; they fire in the order of ENCODINGS."""
        for function in ENCODINGS:
            name = f"{timing}_{function}"
            self.attach(table, function, *arguments, timing=timing, name=name)

    def events(self) -> list[Event]:
        """Commit, tick, and return the events that were sent since the last call."""
        self.conn.commit()
        self.conn.execute("select pgque.ticker(%s)", [self.queue])
        self.conn.commit()
        rows = self.conn.execute(
            """
            select batch_id, type, payload, extra1, extra2, extra3, extra4
              from pgque.receive(%s, %s, 1000)
            """,
            [self.queue, self.consumer],
        ).fetchall()
        for batch_id in {row[0] for row in rows}:
            self.conn.execute("select pgque.ack(%s)", [batch_id])
        self.conn.commit()
        return [Event(*row[1:]) for row in rows]


@pytest.fixture
def capture(conn: psycopg.Connection[Any], queue: str) -> Capture:
    conn.execute("select pgque.subscribe(%s, 'capture')", [queue])
    conn.commit()
    return Capture(conn, queue, "capture")


# The three encodings


def test_jsontriga(capture: Capture) -> None:
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


def test_logutriga(capture: Capture) -> None:
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


def test_logutriga_is_read_back_by_urllib(capture: Capture) -> None:
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


def test_sqltriga(capture: Capture) -> None:
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


def test_sqltriga_compares_a_null_key_by_is_null(capture: Capture) -> None:
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
    """A table `many`, empty, with a column for each type that is worth a test."""
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


def test_values_are_written_as_their_output_functions_do(many: Capture) -> None:
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


def test_backup_sends_the_old_row(capture: Capture) -> None:
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
def test_an_update_that_changes_nothing_is_sent(
    capture: Capture, arguments: tuple[str, ...]
) -> None:
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


def test_pkey_names_the_key(capture: Capture) -> None:
    capture.run('create table item (id int primary key, a int, "B" int)')
    capture.attach_all("item", "pkey=B, a")
    capture.run("insert into item values (1, 2, 3)", "update item set id = 4")
    events = capture.events()
    assert json.loads(events[0].type)["pkey"] == ["B", "a"]
    assert events[1].type == "I:B,a"
    assert events[5].data == """id='4' where "B"='3' and a='2'"""


def test_when_sends_only_what_is_true(capture: Capture) -> None:
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


def test_when_guards_the_other_expressions(capture: Capture) -> None:
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
def test_skip_keeps_rows_out(capture: Capture, function: str) -> None:
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


def test_before_triggers_pass_the_row_on(capture: Capture) -> None:
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


# Tables of every shape


def test_partitioned_table(capture: Capture) -> None:
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


def test_inherited_added_and_dropped_columns(capture: Capture) -> None:
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


def test_names_that_need_quotes(capture: Capture) -> None:
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
def test_generated_columns(capture: Capture, timing: str, kind: str) -> None:
    if capture.conn.info.server_version < 180000:
        kind = "stored"  # virtual ones came with PostgreSQL 18
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


def test_table_without_a_key(capture: Capture) -> None:
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


def test_wide_table(capture: Capture) -> None:
    columns = [f"c{number}" for number in range(1000)]
    definition = ", ".join(f"{column} int default 1" for column in columns)
    capture.run(f"create table wide (id int primary key, {definition})")
    capture.attach_all("wide")
    capture.run("insert into wide values (1)", "update wide set c999 = null")
    events = capture.events()
    assert list(events[0].row) == ["id", *columns]
    assert events[4].data.endswith("&c998=1&c999")
    assert events[5].data == "c999=null where id='1'"


def test_one_session_changes_tables_and_their_columns(capture: Capture) -> None:
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
def test_misuse_is_refused(
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
def test_unknown_queue(capture: Capture, function: str) -> None:
    capture.run("create table item (id int primary key)")
    capture.attach("item", function, queue="nosuch")
    with pytest.raises(psycopg.Error, match="queue not found: nosuch") as raised:
        capture.run("insert into item values (1)")
    assert raised.value.sqlstate == "PQ001"


@pytest.mark.parametrize("function", ENCODINGS)
def test_only_row_triggers_on_tables(capture: Capture, function: str) -> None:
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


def test_a_change_needs_no_more_than_pgque_writer(capture: Capture) -> None:
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


def test_expressions_have_the_rights_of_whoever_changes_the_table(capture: Capture) -> None:
    capture.run(
        "create table item (id int)",
        "create table secret (word text)",
        "grant insert on item to pgque_writer",
    )
    capture.attach("item", "jsontriga", "ev_extra3=(select word from secret)")
    capture.run("insert into item values (1)", "set role pgque_writer")
    with pytest.raises(InsufficientPrivilege, match="secret"):
        capture.run("insert into item values (2)")


def test_expressions_have_the_search_path_of_the_session(capture: Capture) -> None:
    capture.run(
        "create table item (id int)",
        "create schema mine",
        "create function mine.label(int) returns text language sql as $$ select 'No. ' || $1 $$",
    )
    capture.attach("item", "jsontriga", "ev_extra3=label(id)")
    capture.run("set search_path = mine, public", "insert into item values (1)")
    assert [event.extra3 for event in capture.events()] == ["No. 1"]


def test_names_in_the_search_path_do_not_stand_in_for_our_own(capture: Capture) -> None:
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


def test_no_function_has_the_rights_of_its_owner(capture: Capture) -> None:
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
