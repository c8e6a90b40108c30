"""PgBouncer in transaction mode: the client polls and leaves no state in a session.

Each transaction gets a different backend than the previous one. With PGQUE_TEST_POOLER=1 the
client's own tests run through the pooler as well.
"""

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

import pgque
from pgque import ClientPool, Consumer, Message, PgqueClient, Ticker
from pgque.demo.tables import take_lock
from pgque.embedded import Server
from pgque.install import install, schema_version
from pgque.wire import wakeup
from tests.fix_engine import Thread, column, value
from tests.fix_pooler import Pooler, pooler_at_hand, running_pooler
from tests.running import backend_of, eventually, running

pytestmark = pooler_at_hand

ADVISORY = (
    "select objid from pg_locks where locktype = 'advisory' and objsubid = 2 "
    "and database = (select oid from pg_database where datname = current_database())"
)


@pytest.fixture
def collect() -> Callable[[Consumer], list[Message]]:
    def collect(consumer: Consumer) -> list[Message]:
        got: list[Message] = []
        consumer.on("*")(got.append)
        return got

    return collect


def left_in_sessions(pooled: str, direct: psycopg.Connection) -> list[str]:
    """Return the session state that the pooler's next client would inherit."""
    backends = value(
        direct,
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() "
        "and backend_type = 'client backend'",
    )
    left = []
    with contextlib.ExitStack() as stack:
        visited = set()
        for _ in range(backends):
            conn = stack.enter_context(psycopg.connect(pooled, prepare_threshold=None))
            visited.add(backend_of(conn))
            for query in (
                "select 'prepared: ' || statement from pg_prepared_statements",
                "select 'listens: ' || pg_listening_channels()",
                "select 'set: ' || name from pg_settings where source = 'session' "
                "and name not in ('client_encoding', 'application_name')",
            ):
                left += column(conn, query)
        assert len(visited) == backends
    return left + [f"lock: {key}" for key in column(direct, ADVISORY)]


def test_every_part_of_the_client_works_and_leaves_nothing_behind(pooled, direct, collect):
    consumers = [
        Consumer(pooled, queue="q", name="c"),
        Consumer(pooled, queue="q", name="g", subconsumer="a", dead_interval=30),
        Consumer(pooled, queue="q", name="g", subconsumer="b", dead_interval=30),
    ]
    PgqueClient(direct).subscribe_subconsumer("q", "g", "a")
    alone, *members = [collect(consumer) for consumer in consumers]
    with contextlib.ExitStack() as stack:
        for part in [*consumers, Ticker(pooled)]:
            stack.enter_context(running(part))
        pool = stack.enter_context(ClientPool(pooled, max_size=3))
        client = stack.enter_context(pgque.connect(pooled))
        sent = []
        for n in range(30):
            with pool.client() as other:
                sent.append(other.send("q", n, key="k"))
            sent += client.send_batch("q", "t", range(5))
            client.conn.commit()
        eventually(lambda: len(alone) >= len(sent))
        eventually(lambda: sum(map(len, members)) >= len(sent))
    assert sorted(message.msg_id for message in alone) == sorted(sent)
    assert sorted(message.msg_id for got in members for message in got) == sorted(sent)
    assert left_in_sessions(pooled, direct) == []


def test_settings_of_a_handler_end_with_its_message_and_stay_out_of_the_pool(pooled, direct):
    look = (
        "select current_setting('TimeZone'), current_setting('search_path'), current_user::text, "
        "current_setting('client_encoding'), coalesce(current_setting('app.tenant', true), '')"
    )
    consumer = Consumer(pooled, queue="q", name="c", retry_after=0)
    seen: list[object] = []

    @consumer.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        seen.append(client.conn.execute(look).fetchone())
        client.conn.execute("set app.tenant = 'a'; set timezone = 'Asia/Tokyo'")
        client.conn.execute("set search_path = pg_temp; set local client_encoding = 'LATIN1'")

    with running(consumer):
        PgqueClient(direct).send_batch("q", "default", range(10))
        eventually(lambda: len(seen) == 10)
    assert seen == [seen[0]] * 10
    left = left_in_sessions(pooled, direct)
    assert not [name for name in left if "search_path" in name or "tenant" in name]


def test_a_failed_handler_is_retried_and_each_message_is_written_once(pooled, direct):
    direct.execute("create table handled (id bigint)")
    consumer = Consumer(pooled, queue="q", name="c", retry_after=0)
    attempts: list[int] = []

    @consumer.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("insert into handled values (%s)", [msg.json()])
        attempts.append(msg.json())
        assert msg.json() != 3 or attempts.count(3) > 1

    with running(consumer):
        PgqueClient(direct).send_batch("q", "default", range(10))
        eventually(lambda: value(direct, "select count(*) from handled") == 10)
    assert sorted(attempts) == sorted([*range(10), 3])


def test_two_consumers_of_one_name_never_handle_at_the_same_time(pooled, direct):
    inside = threading.Lock()
    handled: list[int] = []

    def handle(message: Message) -> None:
        assert inside.acquire(blocking=False)
        handled.append(message.msg_id)
        inside.release()

    consumers = [Consumer(pooled, queue="q", name="c", max_messages=7) for _ in range(2)]
    for consumer in consumers:
        consumer.on("*")(handle)
    with running(consumers[0]), running(consumers[1]):
        sent = PgqueClient(direct).send_batch("q", "t", range(200))
        eventually(lambda: len(handled) >= len(sent))
    assert handled == sent


def test_polling_is_announced_once(pooled, direct, collect, caplog, monkeypatch):
    monkeypatch.setattr(wakeup, "_said", set())
    caplog.set_level(logging.INFO)
    for _ in range(2):
        consumer = Consumer(pooled, queue="q", name="c")
        got = collect(consumer)
        with running(consumer), running(Ticker(pooled)):
            PgqueClient(direct).send("q", "x")
            eventually(lambda got=got: got)
    said = [r for r in caplog.records if "LISTEN" in r.getMessage()]
    assert [(r.name, r.levelname) for r in said] == [("pgque.wakeup", "WARNING")]
    assert "pgque polls" in said[0].getMessage()


def test_a_direct_connection_logs_nothing_about_polling(direct_dsn, direct, caplog, monkeypatch):
    monkeypatch.setattr(wakeup, "_said", set())
    ticker = Ticker(direct_dsn)
    with running(ticker):
        eventually(lambda: ticker.listening)
    assert "LISTEN" not in caplog.text


def test_several_tickers_behind_a_pooler_do_not_tick_twice(pooled, direct_dsn, direct):
    """Pooled tickers take no session lock, because the pooler would pass it on to other clients.

    A ticker with a direct connection leads at the same time.
    """
    tickers = [Ticker(pooled), Ticker(pooled), Ticker(direct_dsn)]
    with running(tickers[0]), running(tickers[1]), running(tickers[2]):
        eventually(lambda: all(ticker.leading for ticker in tickers))
        assert [ticker.listening for ticker in tickers] == [False, False, True]
        for n in range(1, 21):
            PgqueClient(direct).send("q", n)
            eventually(lambda n=n: value(direct, "select max(tick_event_seq) from pgque.tick") == n)
    seen = "select tick_event_seq from pgque.tick where tick_event_seq > 0 order by tick_id"
    assert column(direct, seen) == sorted(column(direct, seen))
    eventually(lambda: column(direct, ADVISORY) == [])  # a backend ends shortly after its client


def test_a_repeatable_read_default_of_the_database_is_overridden(pooled, direct, collect, caplog):
    """Behind a pooler the client cannot change the session, so it sets each transaction's level."""
    name = sql.Identifier(direct.info.dbname)
    direct.execute(
        sql.SQL("alter database {} set default_transaction_isolation = 'repeatable read'").format(
            name
        )
    )
    consumer = Consumer(pooled, queue="q", name="c")
    got = collect(consumer)
    with running(consumer):
        for n in range(1, 4):
            PgqueClient(direct).send("q", n)
            eventually(lambda n=n: len(got) == n)
    assert "READ COMMITTED" not in caplog.text


def test_a_cancelled_ticker_loop_leaves_no_lock(pooled, direct):
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as looping:
        loop = Thread(lambda: looping.execute("call pgque.ticker_loop()"))
        leader = "select detail from pgque.status() where component = 'ticker'"
        eventually(lambda: "leads" in value(direct, leader))
        looping.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            loop.outcome()
    assert column(direct, ADVISORY) == []


def test_a_borrowed_connection_runs_no_statement_that_another_client_prepared(pooled, direct):
    """psycopg prepares frequent statements, and every connection uses the same names for them."""
    with contextlib.ExitStack() as stack:
        for _ in range(4):  # each in a different backend
            other = stack.enter_context(psycopg.connect(pooled))
            other.execute("prepare _pg3_0 as select 1 where ($1 || $2 || $3) = 'never'")
    with psycopg.connect(pooled, autocommit=True, row_factory=dict_row) as conn:
        client = PgqueClient(conn)
        sent = [client.send("q", n) for n in range(30)]
        for _ in range(10):
            sent += PgqueClient(conn).send_batch("q", "t", ["x"])
        PgqueClient(direct).ticker("q")
        for _ in range(10):
            batch = client.receive("q", "c")
        assert [message.msg_id for message in batch] == sent
        assert client.ack(batch[0].batch_id) == 1
    assert conn.prepare_threshold is not None  # the application's setting is unchanged


def test_install_and_the_command_line_work(databases, pooler: Pooler):
    dsn = databases.create()
    try:
        for _ in range(2):
            install(pooler.dsn(dsn))
        assert schema_version(pooler.dsn(dsn)) is not None
        command = [sys.executable, "-m", "pgque", "version", "--dsn", pooler.dsn(dsn)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    finally:
        databases.drop(dsn)


def test_the_demo_refuses_a_pooler_because_it_locks_its_session(pooled):
    with pgque.connect(pooled) as client, pytest.raises(pgque.PgqueError, match="directly"):
        take_lock(client)


def test_options_in_the_dsn_are_refused_by_name(pooled):
    dsn = psycopg.conninfo.make_conninfo(pooled, options="-c work_mem=1MB")
    with pytest.raises(pgque.PgqueConnectionError, match="startup parameter: options"):
        pgque.connect(dsn)


def test_statement_mode_is_refused_by_name(direct_dsn, direct, server_dsn):
    with running_pooler(server_dsn, pool_mode="statement") as pooler:
        consumer = Consumer(pooler.dsn(direct_dsn), queue="q", name="c")
        consumer.on("*")(lambda message: None)
        with pytest.raises(pgque.PgqueError, match="transaction blocks not allowed"):
            consumer.start()


@pytest.fixture
def restarting(own_server: Server) -> Server:
    install(own_server.dsn)
    return own_server


def test_clients_continue_after_a_restart_of_the_server(restarting, collect):
    with (
        running_pooler(restarting.dsn, server_login_retry=1) as pooler,
        ClientPool(pooler.dsn(restarting.dsn)) as pool,
    ):
        with pool.client() as client:
            client.create_queue("q")
            client.subscribe("q", "c")
        consumer = Consumer(pooler.dsn(restarting.dsn), queue="q", name="c")
        got = collect(consumer)
        with running(consumer):
            eventually(lambda: consumer._received_once)
            for mode in ("fast", "immediate"):
                before = len(got)
                restarting.restart(mode)
                eventually(lambda: sends(pool))
                eventually(lambda before=before: len(got) > before)


def sends(pool: ClientPool) -> bool:
    with contextlib.suppress(pgque.PgqueError), pool.client() as client:
        client.send("q", "after the restart")
        return True
    return False
