"""Settings and constraints do not outlast their message, and long batches survive timeouts."""

import time
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgque import Message, PgqueClient
from tests.fix_ordeal import BAD, Fault, Ordeal
from tests.running import eventually, running

LOOK = (
    "select current_user::text, session_user::text, current_setting('search_path'), "
    "current_setting('statement_timeout'), current_setting('app.tenant', true), "
    "current_setting('TimeZone'), current_setting('tcp_keepalives_idle'), "
    "current_setting('transaction_read_only'), current_setting('client_encoding')"
)


def sql(statements: str) -> Fault:
    return lambda msg, client: client.conn.execute(statements)


@pytest.fixture
def nobody(autoconn: psycopg.Connection) -> str:
    """A role without any right on pgque."""
    autoconn.execute(
        "do $$ begin create role may_nothing; "
        "exception when duplicate_object then null; end $$; grant all on done to public"
    )
    return "may_nothing"


@pytest.mark.parametrize("local", ["local ", ""])
@pytest.mark.parametrize(
    "setting",
    [
        "role may_nothing",
        "session authorization may_nothing",
        "search_path = pg_temp",
        "statement_timeout = '1h'",
        "app.tenant = 'first'",
        "timezone = 'Asia/Tokyo'",
        "client_encoding = 'LATIN1'",
        "tcp_keepalives_idle = 77",
    ],
)
@pytest.mark.parametrize("raises", [False, True])
def test_settings_are_reset_after_each_message(
    ordeal: Ordeal,
    nobody: str,
    autoconn: psycopg.Connection,
    setting: str,
    local: str,
    raises: bool,
):
    seen: list[Any] = []

    @ordeal.consumer.on("*")
    def look(msg: Message, client: PgqueClient) -> None:
        row = client.conn.execute(LOOK).fetchone()
        assert row is not None
        seen.append([value or "" for value in row])
        if msg.json() == BAD:
            client.conn.execute("insert into public.done values (1)")
            client.conn.execute(f"set {local}{setting}")
            if raises:
                raise ValueError

    ordeal.client.set_queue_config(ordeal.queue, "max_retries", 0)
    ordeal.client.send_batch(ordeal.queue, "look", range(7))
    ordeal.client.ticker(ordeal.queue)
    with running(ordeal.consumer):
        eventually(lambda: len(seen) == 7)
        ordeal.client.send(ordeal.queue, 7)  # in another transaction
        eventually(lambda: len(seen) == 8)
    assert seen == [seen[0]] * 8
    done = autoconn.execute("select count(*) from done").fetchone()
    assert done == (0 if raises else 1,)
    assert len(ordeal.client.dead_letters(ordeal.queue)) == (1 if raises else 0)


def test_the_role_is_reset_if_a_handler_switches_to_one_that_cannot_ack(
    ordeal: Ordeal, nobody: str
):
    def fault(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("set role may_nothing")
        raise ValueError("as another role")

    assert ordeal.run(fault).dl_reason == "ValueError: as another role"


def test_attributes_of_the_connection_are_reset_after_each_message(client, new, queue):
    rows: list[Any] = []
    consumer = new()

    @consumer.on("*")
    def handle(msg: Message, client: PgqueClient) -> None:
        rows.append(client.conn.execute("select 1 as one").fetchone())
        client.conn.row_factory = dict_row  # type: ignore[assignment]
        client.conn.cursor_factory = psycopg.ClientCursor
        client.conn.prepare_threshold = 0
        if msg.json() == 1:
            raise ValueError

    with running(consumer):
        client.send_batch(queue, "default", range(3))
        eventually(lambda: len(rows) >= 3)
    assert rows[:3] == [(1,)] * 3


# Constraints


@pytest.fixture
def child(autoconn: psycopg.Connection) -> None:
    autoconn.execute("create table parent (id int primary key)")
    autoconn.execute("create table child (id int references parent deferrable initially deferred)")


def test_a_deferred_constraint_fails_the_message_that_violated_it(ordeal: Ordeal, child: None):
    dead = ordeal.run(sql("insert into child values (1)"))
    assert dead.dl_reason is not None
    assert 'violates foreign key constraint "child_id_fkey"' in dead.dl_reason
    assert ordeal.calls.count(BAD) == 2


def test_each_message_can_violate_a_constraint_temporarily(
    client, new, queue, autoconn, child: None
):
    consumer = new()

    @consumer.on("*")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("insert into child values (%s)", [msg.json()])
        client.conn.execute("insert into parent values (%s)", [msg.json()])

    client.send_batch(queue, "default", range(3))
    client.ticker(queue)
    with running(consumer):
        eventually(lambda: autoconn.execute("select count(*) from child").fetchone() == (3,))
    assert not client.dead_letters(queue)


def test_a_deferred_trigger_runs_once_at_commit(client, new, queue, autoconn):
    autoconn.execute("create table handled (n int); create table noted (n int)")
    autoconn.execute(
        "create function note() returns trigger language plpgsql as "
        "$$ begin insert into noted values (new.n); return null; end $$; "
        "create constraint trigger note after insert on handled deferrable initially deferred "
        "for each row execute function note()"
    )
    consumer = new()

    @consumer.on("*")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("insert into handled values (%s)", [msg.json()])

    client.send_batch(queue, "default", range(3))
    client.ticker(queue)
    with running(consumer):
        eventually(lambda: autoconn.execute("select count(*) from noted").fetchone() == (3,))


# Timeouts


def needs_17(autoconn: psycopg.Connection) -> None:
    if autoconn.info.server_version < 17_00_00:
        pytest.skip("transaction_timeout requires PostgreSQL 17")


@pytest.mark.parametrize("with_client", [True, False])
def test_a_batch_longer_than_the_transaction_timeout_is_finished_in_parts(
    ordeal: Ordeal, autoconn: psycopg.Connection, with_client: bool
):
    needs_17(autoconn)
    database = autoconn.info.dbname
    autoconn.execute(f"alter database {database} set transaction_timeout = '1s'")
    calls: list[int] = []

    def work(msg: Message) -> None:
        calls.append(msg.json())
        time.sleep(0.25)

    def work_with_client(msg: Message, client: PgqueClient) -> None:
        work(msg)
        client.conn.execute("insert into done values (%s)", [msg.json()])

    ordeal.consumer.on("*")(work_with_client if with_client else work)
    ordeal.client.send_batch(ordeal.queue, "default", range(12))
    ordeal.client.ticker(ordeal.queue)
    caught_up = (
        "select bool_and(coalesce(pending_events, 0) = 0 and current_batch is null) "
        "from pgque.get_consumer_info()"
    )
    with running(ordeal.consumer):
        eventually(lambda: autoconn.execute(caught_up).fetchone() == (True,))
    assert sorted(set(calls)) == list(range(12))
    if with_client:
        assert sorted(ordeal.done()) == list(range(12))
    assert not ordeal.client.dead_letters(ordeal.queue)


def test_a_single_message_longer_than_the_transaction_timeout_fails(
    ordeal: Ordeal, autoconn: psycopg.Connection
):
    needs_17(autoconn)
    autoconn.execute(f"alter database {autoconn.info.dbname} set transaction_timeout = '1s'")
    dead = ordeal.run(lambda msg, client: time.sleep(1.5))
    assert "connection broke" in (dead.dl_reason or "")


def test_a_lost_batch_is_retried_with_growing_pauses(client, new, queue, autoconn, caplog):
    autoconn.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin raise exception 'no retries today'; end $$; "
        "create trigger refuse before insert on pgque.retry_queue execute function refuse()"
    )
    calls: list[Message] = []
    consumer = new()

    @consumer.on("*")
    def fail(msg: Message) -> None:
        calls.append(msg)
        raise ValueError

    client.send(queue, 1)
    client.ticker(queue)

    def pauses() -> list[float]:
        return [vars(r)["retry_in"] for r in caplog.records if hasattr(r, "retry_in")]

    with running(consumer):
        eventually(lambda: len(pauses()) >= 6)
    assert max(pauses()) > 0.4
    assert len(calls) < 10
