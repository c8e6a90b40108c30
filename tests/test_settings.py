"""Settings of a session, a role or a database do not change pgque's behaviour or its data.

One scenario makes the calls of applications, including capture triggers, and records the results.
Under every setting they must equal the results under the defaults.
"""

import itertools
import json
from typing import Any

import psycopg
import pytest

from pgque.install import install
from tests.fix_engine import (
    Connection,
    Message,
    configure,
    nack,
    refused,
    send,
    value,
)

_numbers = itertools.count(1)

TABLE = """
    create table public.{table} (
        id int primary key, "Mixed Case" text, word text, flag boolean, bytes bytea, ratio float8,
        small float4, span interval, day date, at timestamptz, local timestamp, list text[],
        doc jsonb, code char(3), amount numeric, address inet{xml}
    )
"""
ROW = (
    "(1, 'a\"b', %s, true, decode('005c27ff', 'hex'), 0.1::float8 + 0.2, 1.1, "
    "make_interval(months => 14, days => -3, secs => 3661.5), '2026-02-01', "
    "'2026-02-01 10:00:00+00', '2026-02-01 10:00:00', array['NULL', null, 'a'], "
    "'{\"a\": null}', 'x', 1.50, '10.0.0.1'"
)
WORD = "it's a \\n back\\slash é \\' \\\\"
TRIGGERS = ("jsontriga", "logutriga", "sqltriga")

# A setting, or several, in the form that SET takes.
HOSTILE = """
    standard_conforming_strings = off
    standard_conforming_strings = off; backslash_quote = off
    standard_conforming_strings = off; escape_string_warning = on
    backslash_quote = on
    array_nulls = off
    transform_null_equals = on
    quote_all_identifiers = on
    bytea_output = escape
    extra_float_digits = -15
    extra_float_digits = 3
    IntervalStyle = sql_standard
    IntervalStyle = iso_8601
    IntervalStyle = postgres_verbose
    DateStyle = 'SQL, DMY'
    DateStyle = 'German'
    DateStyle = 'Postgres, MDY'
    DateStyle = 'German'; TimeZone = 'Asia/Kolkata'
    DateStyle = 'SQL, DMY'; TimeZone = 'Europe/Dublin'
    TimeZone = 'Pacific/Apia'
    TimeZone = 'Asia/Kolkata'
    lc_numeric = 'C'; lc_monetary = 'C'; lc_time = 'C'; lc_messages = 'C'
    xmlbinary = hex; xmloption = document
    search_path = ''
    search_path = 'pgque'
    search_path = 'pg_temp, pgque, pg_catalog'
    row_security = off
    check_function_bodies = off
    plpgsql.variable_conflict = use_column
    plpgsql.variable_conflict = use_variable
    plpgsql.extra_errors = 'all'; plpgsql.extra_warnings = 'all'
    plpgsql.check_asserts = off; plpgsql.print_strict_params = on
    default_transaction_isolation = 'repeatable read'
    default_transaction_isolation = 'serializable'; default_transaction_deferrable = on
    client_encoding = 'LATIN1'
    client_min_messages = debug5
    plan_cache_mode = force_custom_plan
    enable_indexscan = off; enable_indexonlyscan = off; enable_bitmapscan = off
    enable_seqscan = off; enable_nestloop = off; enable_sort = off; enable_hashagg = off
    from_collapse_limit = 1; join_collapse_limit = 1; geqo_threshold = 2; constraint_exclusion = on
    jit = on; jit_above_cost = 0
    parallel_setup_cost = 0; parallel_tuple_cost = 0; min_parallel_table_scan_size = 0
    work_mem = '64kB'; temp_buffers = '800kB'; hash_mem_multiplier = 1
    cursor_tuple_fraction = 1; gin_fuzzy_search_limit = 1
    default_text_search_config = 'simple'; timezone_abbreviations = 'India'
    synchronous_commit = off; commit_delay = 1000
    track_activities = off; track_counts = off; track_functions = 'all'
"""
SETTINGS = [line.strip() for line in HOSTILE.strip().splitlines()]


class Scenario:
    """The core calls on a new queue and table; `run` returns all results but times."""

    def __init__(self, owner: Connection, conn: Connection, role: str | None) -> None:
        self.owner = owner
        self.conn = conn
        self.role = role
        self.number = next(_numbers)
        self.queue = f"set {self.number}"
        self.table = f"set_{self.number}"
        self.seen: list[Any] = []

    def see(self, *found: Any) -> None:
        self.seen += found

    def receive(self, call: str) -> list[Message]:
        """Record the messages without their time, which clients cannot parse in every style."""
        columns = (
            "msg_id, batch_id, type, payload, retry_count, null, extra1, extra2, extra3, extra4"
        )
        rows = self.conn.execute(f"select {columns} from pgque.{call}".encode(), [self.queue])
        batch = [Message(*row) for row in rows]
        for message in batch:
            texts = [message.type, message.payload, *message[6:9]]
            texts = [text and text.replace(self.table, "TABLE") for text in texts]
            self.see([message.retry_count, *texts])
        return batch

    def call(self, query: str, *parameters: object) -> Any:
        found = value(self.conn, query, *parameters)
        self.see(found)
        return found

    def tick(self) -> None:
        """Put retries back, then tick, in READ COMMITTED regardless of the default."""
        if self.role:
            self.conn.execute("reset role")
        for call in ("maint_retry_events()", f"ticker('{self.queue}')"):
            with self.conn.transaction():
                self.conn.execute("set transaction isolation level read committed")
                self.see(value(self.conn, f"select pgque.{call} is not null"))
        if self.role:
            self.conn.execute(f"set role {self.role}".encode())

    def run(self) -> list[Any]:
        self.set_up()
        self.produce()
        self.capture()
        self.consume()
        self.share()
        self.move()
        self.look()
        self.tear_down()
        return self.seen

    def set_up(self) -> None:
        self.call("select pgque.create_queue(%s)", self.queue)
        configure(
            self.conn, self.queue, rotation_period="1 day 2 hours", ticker_max_lag="0.5 seconds"
        )
        configure(self.conn, self.queue, ticker_max_lag=None)
        self.call(
            "select extract(epoch from queue_rotation_period)::int from pgque.queue "
            "where queue_name = %s",
            self.queue,
        )
        if self.role:
            for privilege in ("produce", "consume"):
                self.call("select pgque.grant_queue(%s, %s, %s)", self.role, self.queue, privilege)
            self.conn.execute(f"set role {self.role}".encode())
        self.call("select pgque.subscribe(%s, 'c')", self.queue)
        self.call("select pgque.subscribe_subconsumer(%s, 'g', 'm')", self.queue)

    def produce(self) -> None:
        self.call("select pgque.send(%s, %s::text)", self.queue, WORD)
        self.call("select pgque.send(%s, 't', %s::jsonb)", self.queue, json.dumps({"a": WORD}))
        batch = "select pgque.send_batch(%s, 't', array[%s, null, 'NULL']::text[])"
        self.call(batch, self.queue, WORD)
        self.call(
            "select pgque.insert_event(%s, %s, %s, %s, %s, null, null)",
            *(self.queue, WORD, None, WORD, "x"),
        )

    def capture(self) -> None:
        """Three events per change, with every type of value whose format depends on a setting."""
        execute = self.owner.execute
        xml = has_xml(self.owner)
        execute(TABLE.format(table=self.table, xml=", document xml" if xml else "").encode())
        execute(f"grant all on public.{self.table} to public".encode())
        for function in TRIGGERS:
            execute(
                f"create trigger {function} after insert or update or delete on "
                f"public.{self.table} for each row execute function "
                f"pgque.{function}('{self.queue}', 'backup', 'ignore = small', "
                "$$ev_extra3=word || '\\x'$$)".encode()
            )
        document = ", xmlparse(content '<a>b</a>')" if xml else ""
        insert = f"insert into public.{self.table} values {ROW}{document})"
        self.conn.execute(insert.encode(), [WORD])
        self.conn.execute(f"update public.{self.table} set word = word || %s".encode(), [WORD])
        self.conn.execute(f"update public.{self.table} set small = 2".encode())
        self.conn.execute(f"delete from public.{self.table}".encode())

    def consume(self) -> None:
        self.tick()
        batch = self.receive("receive(%s, 'c')")
        nack(self.conn, batch[0], "-1 day 00:00:01.5", WORD)
        nack(self.conn, batch[1], "1 mon -2 days")
        self.see(
            value(
                self.owner,
                "select round(extract(epoch from ev_retry_after - clock_timestamp()) / 3600) "
                "from pgque.retry_queue where ev_id = %s and ev_queue = "
                "(select queue_id from pgque.queue where queue_name = %s)",
                *(batch[1].msg_id, self.queue),
            )
            in range(26 * 24, 30 * 24)
        )
        self.call("select pgque.ack(%s)", batch[0].batch_id)
        self.tick()
        batch = self.receive("receive(%s, 'c', 1)")
        self.call(
            "select pgque.nack_many(%s, %s, '0', %s)", batch[0].batch_id, [batch[0].msg_id], [WORD]
        )
        self.call("select pgque.ack(%s)", batch[0].batch_id)

    def share(self) -> None:
        batch = self.receive("receive_coop(%s, 'g', 'm', 3, '1 hour 0.5 seconds')")
        self.call("select pgque.ack_part(%s, %s)", batch[0].batch_id, [batch[0].msg_id])
        self.call("select pgque.touch_subconsumer(%s, 'g', 'm')", self.queue)

    def move(self) -> None:
        """A time that is passed as text comes out unchanged."""
        self.call("select pgque.subscribe(%s, 'mover')", self.queue)
        first = (
            "select tick_time from pgque.tick join pgque.queue on queue_id = tick_queue "
            "where queue_name = %s and tick_id = 2"
        )
        at = value(self.owner, first, self.queue)
        self.call("select pgque.seek(%s, 'mover', %s::timestamptz)", self.queue, at)

    def look(self) -> None:
        info = self.conn.execute(
            "select queue_name = %s, last_tick_id > 1, "
            "extract(epoch from queue_rotation_period)::int, "
            "abs(extract(epoch from queue_switch_time - clock_timestamp())) < 300, "
            "extract(epoch from ticker_lag) between 0 and 300 from pgque.get_queue_info(%s)",
            [self.queue, self.queue],
        ).fetchall()
        self.see(*info)
        lags = self.conn.execute(
            "select consumer_name, pending_events is null, "
            "extract(epoch from lag) between 0 and 300 "
            "from pgque.get_consumer_info(%s) order by 1",
            [self.queue],
        ).fetchall()
        self.see(*lags)
        waits = self.conn.execute(
            "select consumer_name, extract(epoch from waiting) between 0 and 300 "
            "from pgque.get_consumer_wait(%s) order by 1",
            [self.queue],
        ).fetchall()
        self.see(*waits)

    def tear_down(self) -> None:
        if self.role:
            self.conn.execute("reset role")
        self.call("select pgque.drop_queue(%s, true)", self.queue)
        self.owner.execute(f"drop table public.{self.table}".encode())


def has_xml(conn: Connection) -> bool:
    """Whether the server was built with libxml."""
    try:
        conn.execute("select xmlparse(content 'a')")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


def unknown(conn: Connection, setting: str) -> bool:
    """Whether this server lacks one of the settings."""
    conn.execute("load 'plpgsql'")  # which defines some of them
    names = [part.partition("=")[0].strip() for part in setting.split(";")]
    known = value(
        conn,
        "select array_agg(lower(name)) from pg_settings where lower(name) = any (%s)",
        [name.lower() for name in names],
    )
    return len(known or []) < len(names)


@pytest.fixture(scope="module")
def usual(shared: Connection, role: str) -> dict[str | None, list[Any]]:
    """The results with default settings: for the superuser, and for a role with grants."""
    with psycopg.connect(shared.info.dsn, autocommit=True) as conn:
        return {who: Scenario(shared, conn, who).run() for who in (None, role)}


@pytest.fixture(scope="module")
def role(shared: Connection):
    name = f"settings_{shared.info.backend_pid}"
    shared.execute(f"create role {name} in role pgque_user".encode())
    yield name
    shared.execute(f"drop owned by {name}; drop role {name}".encode())


def test_the_scenario_records_something(usual, role):
    for seen in usual.values():
        assert len(seen) > 40
        texts = json.dumps(seen, default=str, ensure_ascii=False)
        assert "0.30000000000000004" in texts
        assert "1 year 2 mons -3 days +01:01:01.5" in texts
        assert "2026-02-01T10:00:00+00:00" in texts
    assert [s for s in usual[None] if isinstance(s, list)] == [
        s for s in usual[role] if isinstance(s, list)
    ]


@pytest.mark.parametrize("by_grant", [False, True], ids=["by role", "by grant"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_no_result_depends_on_the_setting(shared, usual, role, setting, by_grant):
    if unknown(shared, setting):
        pytest.skip("this server has no such setting")
    who = role if by_grant else None
    with psycopg.connect(shared.info.dsn, autocommit=True) as conn:
        conn.execute("load 'plpgsql'")
        for part in setting.split(";"):
            conn.execute(f"set {part.strip()}".encode())
        assert Scenario(shared, conn, who).run() == usual[who]


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_installation_does_not_depend_on_the_setting(empty_dsn, shared, setting):
    """Function bodies are stored as written, but the set-up statements run at once."""
    if unknown(shared, setting):
        pytest.skip("this server has no such setting")
    ours = (
        "select md5(string_agg(p.oid::regprocedure || prosrc || proacl::text, '' order by "
        'p.oid::regprocedure::text collate "C")) from pg_proc p '
        "where pronamespace = 'pgque'::regnamespace and proname !~ '^_event_|^_append$'"
    )
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("load 'plpgsql'")
        for part in setting.split(";"):
            conn.execute(f"set {part.strip()}".encode())
        install(conn)
        conn.execute("reset all")
        assert value(conn, ours) == value(shared, ours)


def test_a_call_by_grant_is_not_lost_if_triggers_are_off(shared, role):
    """session_replication_role = replica disables the triggers behind such calls, and capture."""
    value(shared, "select pgque.create_queue('replica')")
    value(shared, "select pgque.grant_queue(%s, 'replica', 'produce')", role)
    with psycopg.connect(shared.info.dsn, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        assert send(conn, "replica") == 1
        conn.execute(f"set role {role}".encode())
        with refused("55000", "session_replication_role"):
            send(conn, "replica")
    value(shared, "select pgque.drop_queue('replica', true)")
