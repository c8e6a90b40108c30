"""Maintenance, run by a loop, by pg_cron or by hand (sql/schedule)."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgque.doctor import examine
from pgque.install import SCHEMA_VERSION, install
from tests.fix_engine import (
    LONG,
    Thread,
    ack,
    column,
    configure,
    drain,
    nack,
    notices,
    payloads,
    receive,
    refused,
    send,
    tick,
    value,
)
from tests.running import PATIENCE, eventually

Status = dict[str, tuple[str, str]]


def status(conn) -> Status:
    rows = conn.execute("select component, status, detail from pgque.status()")
    return {component: (state, detail) for component, state, detail in rows}


def test_status_shows_the_versions_of_pgque_and_postgresql(autoconn):
    found = status(autoconn)
    assert list(found) == ["pgque", "postgresql", "schema", "pg_cron", "ticker", "queues"]
    assert found["pgque"] == ("ok", value(autoconn, "select pgque.version()"))
    assert found["postgresql"] == ("ok", value(autoconn, "show server_version"))
    assert found["schema"] == ("ok", f"version {SCHEMA_VERSION}")


# By hand


def test_maint_handles_retries_rotation_and_the_ledger_and_counts_them(autoconn, queue, consumer):
    assert value(autoconn, "select pgque.maint()") == 0
    send(autoconn, queue)
    tick(autoconn, queue)
    [message] = receive(autoconn, queue, consumer)
    nack(autoconn, message)
    ack(autoconn, message.batch_id)
    configure(autoconn, queue, rotation_period="1 microsecond")
    autoconn.execute("update pgque.config set ledger_max_bytes = 0")
    autoconn.execute("select setval('pgque.ledger_kept_bytes', 0)")
    assert value(autoconn, "select pgque.maint()") == 3
    assert value(autoconn, "select pgque.maint_rotate_ledger()") == 1
    assert len(drain(autoconn, queue, consumer)) == 1


def test_p5_maint_never_waits(connect, autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    [message] = receive(autoconn, queue, consumer)
    nack(autoconn, message)
    ack(autoconn, message.batch_id)
    configure(autoconn, queue, rotation_period="1 microsecond")
    first = connect()
    assert value(first, "select pgque.maint()") == 2
    autoconn.execute("set lock_timeout = '1s'")
    assert value(autoconn, "select pgque.maint()") == 0
    first.rollback()


def test_p7_the_ticker_may_sleep_only_if_transactions_cannot_be_prepared(autoconn):
    """Notifications prevent PREPARE TRANSACTION, so there no send notifies and the ticker polls."""
    may_prepare = value(autoconn, "show max_prepared_transactions") != "0"
    assert value(autoconn, "select pgque.ticker_may_sleep()") is not may_prepare


def test_p7_a_send_wakes_a_sleeping_ticker_once(new_server: Callable) -> None:
    with new_server(settings={"max_prepared_transactions": 0}) as server:
        install(server.dsn)
        with (
            psycopg.connect(server.dsn, autocommit=True) as ticker,
            psycopg.connect(server.dsn, autocommit=True) as conn,
        ):
            value(conn, "select pgque.create_queue('q')")
            ticker.execute("listen pgque_ticker")
            may_sleep = "select pgque.ticker_may_sleep()"
            assert value(ticker, may_sleep) is True
            with conn.transaction():
                for n in range(5):
                    send(conn, "q", n)
                assert value(ticker, "select pgque.ticker()") == 1
                assert value(ticker, may_sleep) is False, "an open transaction may hold events"
            assert len(list(ticker.notifies(timeout=PATIENCE, stop_after=1))) == 1
            send(conn, "q")  # this send had been asked to notify too; the next one was not
            assert len(list(ticker.notifies(timeout=PATIENCE, stop_after=1))) == 1
            send(conn, "q")
            assert list(ticker.notifies(timeout=0)) == []
            value(ticker, "select pgque.ticker()")
            value(ticker, "select pgque.ticker()")
            assert value(ticker, may_sleep) is True


# Inside a scheduler


def test_set_tick_period_ms_accepts_1_to_1000(autoconn):
    period = "select tick_period_ms from pgque.config"
    for ms in (1, 1000):
        assert value(autoconn, "select pgque.set_tick_period_ms(ms := %s)", ms) == 1
        assert value(autoconn, period) == ms
    for ms in (0, 1001, -1, None):
        with refused("22023", "tick period must be 1 to 1000 ms"):
            autoconn.execute("select pgque.set_tick_period_ms(%s::int)", [ms])
    assert value(autoconn, period) == 1000


def test_ticker_loop_ticks_and_maintains_unless_another_ticker_leads(
    connect, autoconn, queue, consumer
):
    autoconn.execute("update pgque.config set slot_seconds = 600, tick_period_ms = 1")
    both = [connect(autocommit=True) for _ in range(2)]
    loops = [Thread(conn.execute, "call pgque.ticker_loop()") for conn in both]
    # Either loop may end: between two transactions no loop holds the lead.
    eventually(lambda: sum(loop.is_alive() for loop in loops) == 1, "one loop to end")
    looping, loop = next(pair for pair in zip(both, loops, strict=True) if pair[1].is_alive())
    leads = f"backend {looping.info.backend_pid} leads"
    eventually(lambda: status(autoconn)["ticker"] == ("running", leads))
    send(autoconn, queue, "ticked")
    eventually(lambda: receive(autoconn, queue, consumer))
    [message] = receive(autoconn, queue, consumer)
    nack(autoconn, message)
    ack(autoconn, message.batch_id)
    eventually(lambda: receive(autoconn, queue, consumer))
    looping.cancel()
    with pytest.raises(psycopg.errors.QueryCanceled):
        loop.outcome()


def test_ticker_loop_ends_after_its_slot(autoconn):
    autoconn.execute("update pgque.config set slot_seconds = 1")
    autoconn.execute("call pgque.ticker_loop()")
    assert status(autoconn)["ticker"] == (
        "none",
        'run "pgque ticker", or pgque.start() with pg_cron',
    )


def test_p2_ticker_loop_refuses_old_snapshots_without_taking_the_lead(connect, autoconn):
    looping = connect(autocommit=True)
    looping.execute("set default_transaction_isolation = 'repeatable read'")
    with refused("PQ013", "ticker_loop needs a READ COMMITTED transaction"):
        looping.execute("call pgque.ticker_loop()")
    assert status(autoconn)["ticker"][0] == "none"


# Without pg_cron


def test_without_pg_cron_start_names_the_alternative(autoconn):
    heard = notices(autoconn)
    assert value(autoconn, "select pgque.start()") == 0
    assert "pg_cron is not installed in this database" in heard[0]
    assert "pgque ticker" in heard[0]
    assert value(autoconn, "select pgque.stop()") == 0


def test_status_of_a_database_without_pg_cron_and_ticker(autoconn, queue, consumer):
    rows = status(autoconn)
    assert rows["pg_cron"] == ("absent", "not installed in this database")
    assert rows["ticker"][0] == "none"
    expected = "1 queues, 1 subscriptions, 0 retries wait, 0 dead letters"
    assert rows["queues"] == ("ok", expected)


def test_p7_status_stops_counting_at_a_limit(autoconn, queue, consumer):
    autoconn.execute(
        "insert into pgque.dead_letter (dl_queue_id, dl_consumer_id, ev_id) "
        "select queue_id, co_id, n from pgque.queue, pgque.consumer, generate_series(1, 100000) n"
    )
    assert status(autoconn)["queues"][1].endswith(" 100000 dead letters")
    autoconn.execute(
        "insert into pgque.dead_letter (dl_queue_id, dl_consumer_id, ev_id) "
        "select queue_id, co_id, n from pgque.queue, pgque.consumer, "
        "generate_series(100001, 130000) n"
    )
    assert status(autoconn)["queues"][1].endswith(", more than 100000 dead letters")


def test_uninstall_drops_the_schema(autoconn, queue):
    value(autoconn, "select pgque.uninstall()")
    assert value(autoconn, "select to_regnamespace('pgque')") is None


# With pg_cron


def run_as(account: pwd.struct_passwd | None, *command: object) -> None:
    user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    subprocess.run(
        [str(part) for part in command],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **user,
    )


@pytest.fixture(scope="module")
def cron_dsn() -> Iterator[str]:
    """A cluster of the system's PostgreSQL with pg_cron loaded."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/lib/pg_cron.so"))
    if not found:
        pytest.skip("pg_cron is not installed on this machine")
    programs = found[-1].parents[1] / "bin"
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(prefix="pgque-cron-"))
    try:
        if account:
            os.chown(home, account.pw_uid, account.pw_gid)
        data = home / "data"
        run_as(account, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N")
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": home,
            "fsync": "off",
            "shared_preload_libraries": "pg_cron",
            "cron.database_name": "postgres",
            "cron.use_background_workers": "on",
        }
        options = " ".join(f"-c {name}='{setting}'" for name, setting in settings.items())
        log = home / "log"
        run_as(account, programs / "pg_ctl", "-D", data, "-w", "-l", log, "-o", options, "start")
        try:
            dsn = f"host={home} dbname=postgres user=postgres"
            install(dsn)
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("create extension pg_cron")
            yield dsn
        finally:
            run_as(account, programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def test_with_pg_cron_start_schedules_one_job_and_stop_removes_it(cron_dsn):
    with psycopg.connect(cron_dsn, autocommit=True) as conn:
        assert status(conn)["pg_cron"][0] == "stopped"
        assert [value(conn, "select pgque.start()") for _ in range(2)] == [1, 1]
        job = conn.execute("select jobname, command, database, username from cron.job").fetchall()
        assert job == [("pgque_ticker", "call pgque.ticker_loop()", "postgres", "postgres")]
        state, detail = status(conn)["pg_cron"]
        assert state == "scheduled"
        seconds = "10 seconds" in column(conn, "select schedule from cron.job")
        assert value(conn, "select slot_seconds from pgque.config") == (10 if seconds else 60)
        assert detail.startswith("10 seconds" if seconds else "* * * * *")
        assert [value(conn, "select pgque.stop()") for _ in range(2)] == [1, 0]
        assert status(conn)["pg_cron"][0] == "stopped"


def test_doctor_checks_whether_pg_cron_ticks(cron_dsn):
    def seen(dsn: str) -> dict[str, tuple[str, str | None]]:
        return {one.check: (one.status.value, one.mend) for one in examine(dsn)}

    with psycopg.connect(cron_dsn, autocommit=True) as conn:
        conn.execute("create role reader login in role pgque_reader")
        as_reader = f"{cron_dsn} user=reader"
        assert seen(cron_dsn)["pg_cron"] == ("warning", "select pgque.start()")
        conn.execute("select pgque.start()")
        assert seen(cron_dsn)["pg_cron"] == seen(cron_dsn)["ticker"] == ("ok", None)
        assert seen(as_reader)["ticker"] == ("ok", None)
        found, mend = seen(as_reader)["pg_cron"]
        assert (found, "pgque_admin" in mend) == ("warning", True)
        conn.execute("select pgque.stop()")


@pytest.mark.skipif(not LONG, reason="pg_cron runs jobs once a minute: set PGQUE_LONG=1")
def test_with_pg_cron_events_are_delivered(cron_dsn):
    with psycopg.connect(cron_dsn, autocommit=True) as conn:
        value(conn, "select pgque.create_queue('q')")
        value(conn, "select pgque.subscribe('q', 'c')")
        value(conn, "select pgque.start()")
        send(conn, "q", "scheduled")
        for _ in range(4):
            try:
                eventually(lambda: receive(conn, "q", "c"))
            except AssertionError:
                continue
            break
        assert payloads(receive(conn, "q", "c")) == ["scheduled"]
        value(conn, "select pgque.stop()")
