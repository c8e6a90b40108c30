"""Calls whose snapshot is older than the end of their queue: PQ001, 40001, or the snapshot's rows.

An isolated transaction still sees the queue's row, its consumers and its batches, but PostgreSQL
keeps no old version of a function or table that was dropped.
"""

import psycopg
import pytest

from pgque import PgqueClient, PgqueRetryable
from tests.fix_engine import (
    Connection,
    Thread,
    drain,
    is_blocked,
    open_batch,
    payloads,
    refused,
    send,
    value,
)
from tests.races import situation
from tests.races.calls import CALLS, every_call, statement
from tests.running import eventually

ISOLATED = ["repeatable read", "serializable"]
NAMED = ("PQ001", "40001")
NEEDS_A_NEW_SNAPSHOT = {
    # Ticks and maintenance.
    *("ticker()", "ticker(text)", "ticker(text,bigint,timestampwithtimezone,bigint)"),
    *("maint()", "maint_retry_events()", "maint_rotate_ledger()"),
    "maint_rotate_tables_step1(text)",
}
SHOW_THE_SNAPSHOT = {
    *(
        "queue_grants()",
        "status()",
        "version()",
        "start()",
        "stop()",
        "set_tick_period_ms(integer)",
    ),
    *("get_queue_info()", "get_queue_info(text)", "get_queue_wait(text)"),
    *("get_consumer_info()", "get_consumer_info(text)", "get_consumer_info(text,text)"),
    *("get_consumer_wait(text,text)", "get_batch_info(bigint)", "dlq_inspect(text,integer)"),
    # Other queues, and a report that counts failures.
    *(
        "ticker_may_sleep()",
        "ticks_are_late()",
        "maint_rotate_tables_step2()",
        "dlq_replay_all(text)",
    ),
}


def made_new(arguments: str) -> bool:
    """Whether a call makes another queue."""
    return arguments == "'new'" or arguments.startswith("'new', '{")


def of_this_queue() -> dict[str, str]:
    """The calls that concern queue q."""
    return {
        name: signature
        for name, (signature, call) in every_call().items()
        if "'x'" not in call.statement and not made_new(call.statement)
    }


@pytest.fixture(scope="module")
def world(shared: Connection) -> Connection:
    shared.execute(situation.SCHEMA)
    return shared


@pytest.fixture(params=ISOLATED)
def late(world: Connection, request: pytest.FixtureRequest):
    """A transaction begun before the queue was dropped; its session has run every call before."""
    with psycopg.connect(world.info.dsn, autocommit=True) as conn:
        facts = situation.prepare(world)
        for signature, call in every_call().values():
            with conn.transaction(force_rollback=True):
                attempt(conn, statement(signature, call, facts))
        conn.execute(f"begin isolation level {request.param}".encode())
        conn.execute("select count(*) from pgque.queue")
        yield conn, facts
        conn.execute("rollback")


def attempt(conn: Connection, call: str) -> str:
    """Execute and undo a call; return its SQLSTATE and message, or an empty string."""
    conn.execute("savepoint attempt")
    try:
        conn.execute(call.encode())
        return ""
    except psycopg.Error as error:
        return f"{error.sqlstate}: {error.diag.message_primary}"
    finally:
        conn.execute("rollback to attempt")


@pytest.mark.parametrize("anew", [False, True], ids=["dropped", "created anew"])
def test_p10_every_call_on_a_queue_that_ended_after_the_snapshot_reports_it(world, late, anew):
    conn, facts = late
    value(world, "select pgque.drop_queue('q', true)")
    if anew:
        value(world, "select pgque.create_queue('q')")
    calls = every_call()
    unnamed, shown = {}, set()
    for name, signature in of_this_queue().items():
        found = attempt(conn, statement(signature, calls[name][1], facts))
        if not found:
            shown.add(signature)
        elif not found.startswith("PQ013" if signature in NEEDS_A_NEW_SNAPSHOT else NAMED):
            unnamed[name] = found
    assert not unnamed
    assert shown <= SHOW_THE_SNAPSHOT
    assert set(CALLS) >= SHOW_THE_SNAPSHOT | NEEDS_A_NEW_SNAPSHOT


@pytest.mark.parametrize("level", ISOLATED)
@pytest.mark.parametrize("before", ["nothing", "a send", "an event read"])
def test_p10_it_is_reported_whatever_the_transaction_has_done_before(
    autoconn, connect, queue, consumer, level, before
):
    """A transaction that already holds a lock does not check for changes when it locks again."""
    [message] = open_batch(autoconn, queue, consumer)
    value(autoconn, "select pgque.create_queue('other')")
    conn = connect(autocommit=True)
    events = f"select * from pgque.get_batch_events({message.batch_id})"
    conn.execute(f"begin isolation level {level}".encode())
    value(conn, "select count(*) from pgque.queue")
    if before == "a send":
        send(conn, "other")
    elif before == "an event read":
        conn.execute(events.encode())
    value(autoconn, "select pgque.drop_queue(%s, true)", queue)
    for call in (
        f"select pgque.send('{queue}', 'x'::text)",
        f"select pgque.send_batch('{queue}', array['x'])",
        events,
        f"select * from pgque.receive('{queue}', '{consumer}')",
    ):
        assert attempt(conn, call).startswith(NAMED)
    assert send(conn, "other") > 0
    conn.execute("commit")
    with refused("PQ001", f"queue not found: {queue}"):
        send(conn, queue)


@pytest.mark.parametrize("level", ISOLATED)
def test_p10_a_send_by_grant_reports_it_too(autoconn, connect, queue, level):
    role = f"dropped_{autoconn.info.backend_pid}"
    autoconn.execute(f"create role {role}".encode())
    try:
        value(autoconn, "select pgque.grant_queue(%s, %s, 'produce')", role, queue)
        conn = connect(autocommit=True)
        conn.execute(f"set role {role}".encode())
        conn.execute(f"begin isolation level {level}".encode())
        send(conn, queue)
        conn.execute("rollback")
        conn.execute(f"begin isolation level {level}".encode())
        value(conn, "select count(*) from pgque.config")
        value(autoconn, "select pgque.drop_queue(%s)", queue)
        assert attempt(conn, f"select pgque.send('{queue}', 'x'::text)").startswith(NAMED)
        conn.execute("rollback")
    finally:
        autoconn.execute(f"drop owned by {role}; drop role {role}".encode())


def test_the_client_raises_an_error_that_can_be_retried(autoconn, conn, queue):
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    value(conn, "select count(*) from pgque.queue")
    value(autoconn, "select pgque.drop_queue(%s)", queue)
    value(autoconn, "select pgque.create_queue(%s)", queue)
    with pytest.raises(PgqueRetryable, match=f"queue {queue} was dropped"):
        PgqueClient(conn).send(queue, "x")
    conn.rollback()
    assert PgqueClient(conn).send(queue, "x") == 1


@pytest.mark.parametrize("level", ["read committed", *ISOLATED])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_p10_a_send_waits_for_a_running_drop(autoconn, connect, queue, consumer, level, end):
    dropper, sender = connect(), connect(autocommit=True)
    value(dropper, "select pgque.drop_queue(%s, true)", queue)
    sender.execute(f"begin isolation level {level}".encode())
    sending = Thread(attempt, sender, f"select pgque.send('{queue}', 'x'::text)")
    eventually(lambda: is_blocked(autoconn, sender), "the send to block")
    dropper.execute(end.encode())
    outcome = sending.outcome()
    sender.execute("rollback")
    assert outcome.startswith(NAMED) if end == "commit" else outcome == ""


def test_create_queue_waits_for_a_drop_and_creates_the_queue_again(autoconn, connect, queue):
    dropper, creator = connect(), connect(autocommit=True)
    value(dropper, "select pgque.drop_queue(%s)", queue)
    creating = Thread(value, creator, "select pgque.create_queue(%s)", queue)
    eventually(lambda: is_blocked(autoconn, creator), "create_queue to block")
    dropper.commit()
    assert creating.outcome() == 1
    value(autoconn, "select pgque.subscribe(%s, 'c')", queue)
    send(autoconn, queue)
    assert payloads(drain(autoconn, queue, "c")) == ["x"]
