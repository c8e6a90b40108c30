"""Advisory locks held by a session without any rights, as any session can take any of them.

Nothing is lost, sends go on, and a warning or doctor names the session.
"""

import logging
import secrets

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgque import Ticker
from pgque.doctor import Status, examine
from tests.fix_engine import (
    Connection,
    Thread,
    ack,
    drain,
    is_blocked,
    notices,
    payloads,
    receive,
    send,
    send_many,
    subscribe,
    tick,
    value,
)
from tests.running import eventually

ONE_HASH = ("queue73076", "queue98506")
"""Two names with the same hashtext."""
LATE = "more than 5 seconds"


@pytest.fixture
def stranger(direct_dsn):
    """A session that can connect but has no other right."""
    role = f"stranger_{secrets.token_hex(4)}"
    with psycopg.connect(direct_dsn, autocommit=True) as admin:
        admin.execute(f"create role {role} login".encode())
        dsn = make_conninfo(direct_dsn, user=role, application_name="some tool")
        with psycopg.connect(dsn, autocommit=True) as conn:
            yield conn
        eventually(
            lambda: (
                not value(admin, "select count(*) from pg_stat_activity where usename = %s", role)
            )
        )
        admin.execute(f"drop role {role}".encode())


def hold(conn: Connection, *keys: str) -> None:
    for key in keys:
        conn.execute(f"select pg_advisory_lock({key})".encode())


def grow_old(conn: Connection, queue: str) -> None:
    """Make the queue's events and its last tick a minute old."""
    log = value(conn, "select queue_data_pfx from pgque.queue where queue_name = %s", queue)
    conn.execute(f"update {log} set ev_time = ev_time - interval '1 minute'".encode())
    conn.execute("update pgque.tick set tick_time = tick_time - interval '1 minute'")


def test_p5_two_names_with_one_hash_do_not_wait_for_each_other(autoconn, connect):
    assert value(autoconn, "select hashtext(%s) = hashtext(%s)", *ONE_HASH)
    for name in ONE_HASH:
        value(autoconn, "select pgque.create_queue(%s)", name)
    subscribe(autoconn, ONE_HASH[1], "c")
    dropper = connect()
    value(dropper, "select pgque.drop_queue(%s)", ONE_HASH[0])
    autoconn.execute("set lock_timeout = '10s'")
    send(autoconn, ONE_HASH[1])
    value(autoconn, "select pgque.send_batch(%s, array['y'])", ONE_HASH[1])
    assert payloads(drain(autoconn, ONE_HASH[1], "c")) == ["x", "y"]
    dropper.rollback()


def test_p5_sends_go_on_while_another_session_holds_the_lock_on_the_name(
    autoconn, stranger, connect, queue, consumer
):
    key = value(autoconn, "select pgque._name_key(%s)", queue)
    hold(stranger, str(key))
    autoconn.execute("set lock_timeout = '10s'")
    with autoconn.transaction():
        send(autoconn, queue)
        send(autoconn, queue, "y")
    value(autoconn, "select pgque.send_batch(%s, array['z'])", queue)
    headers = "select pgque.send_batch(%s, 't', array['w'], '{}')"
    value(autoconn, headers, queue)
    for level in ("repeatable read", "serializable"):
        with autoconn.transaction():
            autoconn.execute(f"set transaction isolation level {level}".encode())
            send(autoconn, queue, level)
    assert payloads(drain(autoconn, queue, consumer)) == [
        *("x", "y", "z", "w", "repeatable read", "serializable")
    ]


def test_p1_a_drop_waits_for_a_send_that_could_not_lock_the_name(
    autoconn, stranger, connect, queue
):
    """Such a send locks the queue's row instead of the name."""
    hold(stranger, str(value(autoconn, "select pgque._name_key(%s)", queue)))
    sender, dropper = connect(), connect(autocommit=True)
    send(sender, queue)
    stranger.execute("select pg_advisory_unlock_all()")
    dropping = Thread(value, dropper, "select pgque.drop_queue(%s)", queue)
    eventually(lambda: is_blocked(autoconn, dropper), "the drop to block")
    send(sender, queue, "y")
    sender.commit()
    assert dropping.outcome() == 1


def test_p5_a_rotation_and_a_subscriber_do_not_wait_for_such_a_send(
    autoconn, stranger, connect, queue, consumer
):
    hold(stranger, str(value(autoconn, "select pgque._name_key(%s)", queue)))
    sender = connect()
    send(sender, queue)
    autoconn.execute("set lock_timeout = '10s'")
    subscribe(autoconn, queue, "new")
    value(autoconn, "select pgque.set_queue_config(%s, 'rotation_period', '1 microsecond')", queue)
    assert value(autoconn, "select pgque.maint_rotate_tables_step1(%s)", queue) == 1
    sender.commit()
    assert payloads(drain(autoconn, queue, consumer)) == ["x"]


def test_the_ticker_warns_about_a_due_queue_that_it_must_skip(autoconn, stranger, queue, consumer):
    heard = notices(autoconn)
    number = value(autoconn, "select queue_id from pgque.queue where queue_name = %s", queue)
    hold(stranger, f"1885827446, {number}")
    send(autoconn, queue)
    assert value(autoconn, "select pgque.ticker()") == 0
    assert heard == []  # another ticker may hold the lock
    grow_old(autoconn, queue)
    for _ in range(20):
        assert value(autoconn, "select pgque.ticker()") == 0
    [warning] = heard  # not a thousand a second
    assert warning == (
        f"WARNING: pgque: no tick of queue {queue} for {LATE}: backend "
        f"{stranger.info.backend_pid} holds the lock 1885827446, {number}"
    )
    stranger.execute("select pg_advisory_unlock_all()")
    assert value(autoconn, "select pgque.ticker()") == 1
    assert payloads(drain(autoconn, queue, consumer)) == ["x"]


def test_ticks_are_late_only_if_a_committed_event_waits(autoconn, connect, queue):
    late = "select pgque.ticks_are_late()"
    send(autoconn, queue)
    assert not value(autoconn, late)
    grow_old(autoconn, queue)
    assert value(autoconn, late)
    value(autoconn, "select pgque.set_queue_config(%s, 'ticker_paused', 'true')", queue)
    assert not value(autoconn, late)
    value(autoconn, "select pgque.set_queue_config(%s, 'ticker_paused', 'false')", queue)
    value(autoconn, "select pgque.set_queue_config(%s, 'ticker_max_lag', '1 hour')", queue)
    assert not value(autoconn, late)
    value(autoconn, "select pgque.set_queue_config(%s, 'ticker_max_lag', null)", queue)
    tick(autoconn, queue)
    grow_old(autoconn, queue)
    assert not value(autoconn, late)
    sender = connect()
    send(sender, queue)
    assert not value(autoconn, late)


def test_a_standby_ticker_ticks_if_the_leader_does_not(
    dsn, autoconn, stranger, queue, consumer, caplog
):
    hold(stranger, "1885827447, 0")
    send_many(autoconn, queue, 2)
    grow_old(autoconn, queue)
    ticker = Ticker(dsn)
    running = Thread(ticker.run)
    try:
        with caplog.at_level(logging.WARNING, "pgque.ticker"):
            eventually(lambda: value(autoconn, "select count(*) > 1 from pgque.tick"), "a tick")
            eventually(lambda: caplog.records, "a warning")
        assert not ticker.leading
        batch = receive(autoconn, queue, consumer)
        assert payloads(batch) == ["1", "2"]
        ack(autoconn, batch)
        send(autoconn, queue, "soon")
        eventually(
            lambda: payloads(receive(autoconn, queue, consumer)) == ["soon"], "the next message"
        )
    finally:
        ticker.stop()
        running.outcome()
    [warning] = [r.getMessage() for r in caplog.records if "leads" in r.getMessage()]
    assert str(stranger.info.backend_pid) in warning
    assert LATE in warning


def test_a_pg_cron_slot_ticks_if_the_leader_does_not(autoconn, stranger, queue, consumer):
    heard = notices(autoconn)
    hold(stranger, "1885827447, 0")
    autoconn.execute("update pgque.config set slot_seconds = 1")
    send(autoconn, queue)
    autoconn.execute("call pgque.ticker_loop()")
    assert receive(autoconn, queue, consumer) == []
    grow_old(autoconn, queue)
    autoconn.execute("call pgque.ticker_loop()")
    assert payloads(receive(autoconn, queue, consumer)) == ["x"]
    [warning] = heard
    assert str(stranger.info.backend_pid) in warning
    assert LATE in warning


HELD = {
    "1885827445, 0": "installation lock",
    "1885827446, {number}": "tick lock of {queue}",
    "1885827447, 0": "ticker leader lock",
    "1885827448, 0": "ledger rotation lock",
    "1885827448, 1": "send functions lock",
    "{key}": "name lock of {queue}",
}


@pytest.mark.parametrize("key", HELD)
def test_doctor_names_the_session_that_holds_a_lock(
    dsn, autoconn, stranger, queue, key, monkeypatch
):
    facts = {
        "number": value(autoconn, "select queue_id from pgque.queue"),
        "key": value(autoconn, "select pgque._name_key(%s)", queue),
        "queue": queue,
    }
    monkeypatch.setattr("pgque.doctor.locks.PATIENCE", 0.0)
    [found] = [one for one in examine(dsn) if one.check == "locks"]
    assert found.status is Status.OK
    hold(stranger, key.format(**facts))
    [found] = [one for one in examine(dsn) if one.check == "locks"]
    pid = stranger.info.backend_pid
    assert found.status is Status.FAULT
    assert HELD[key].format(**facts) in found.detail
    assert f"backend {pid} of {stranger.info.user} (some tool)" in found.detail
    assert found.mend == f"select pg_terminate_backend({pid})"
    autoconn.execute(found.mend.encode())
    eventually(lambda: all(one.status is Status.OK for one in examine(dsn) if one.check == "locks"))


def test_doctor_accepts_a_ticker_and_a_long_transaction_that_has_sent(
    dsn, autoconn, connect, queue, monkeypatch
):
    monkeypatch.setattr("pgque.doctor.locks.PATIENCE", 0.0)
    sender = connect()
    send(sender, queue)
    ticker = Ticker(dsn)
    running = Thread(ticker.run)
    try:
        eventually(lambda: ticker.leading)
        eventually(lambda: all(f.status is Status.OK for f in examine(dsn) if f.check == "locks"))
    finally:
        ticker.stop()
        running.outcome()
