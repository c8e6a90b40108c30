"""The rights of each role (sql/roles_and_grants), in use; tests/security checks the catalog."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgque.install import install
from tests.fix_engine import (
    ack,
    column,
    drain,
    nack,
    payloads,
    receive,
    receive_coop,
    refused,
    rotate,
    rotate_ledger,
    send,
    tick,
    value,
)


@pytest.fixture
def act_as(autoconn) -> Iterator:
    """Switch the connection to the rights of a role."""

    def act_as(role: str) -> psycopg.Connection:
        autoconn.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        return autoconn

    return act_as


def test_p11_a_role_without_grants_can_neither_read_nor_call(autoconn, queue, act_as):
    tables = column(
        autoconn,
        "select oid::regclass::text from pg_class where relnamespace = 'pgque'::regnamespace "
        "and relkind in ('r', 'v')",
    )
    assert len(tables) >= 17
    create = "create role nobody_special"
    autoconn.execute(f"do $$ begin {create}; exception when duplicate_object then null; end $$")
    act_as("nobody_special")
    for table in tables:
        with refused("42501", "permission denied for schema pgque"):
            autoconn.execute(f"select from {table}".encode())
    for call in (
        f"send('{queue}', 'x'::text)",
        f"receive('{queue}', 'c')",
        "ticker()",
        "version()",
    ):
        with refused("42501", "permission denied for schema pgque"):
            autoconn.execute(f"select pgque.{call}".encode())


def test_a_writer_can_only_send(autoconn, queue, consumer, act_as):
    act_as("pgque_writer")
    send(autoconn, queue, "written")
    value(autoconn, "select pgque.send_batch(%s, '{a,b}'::text[])", queue)
    for call in (
        f"receive('{queue}', '{consumer}')",
        f"ticker('{queue}')",
        f"subscribe('{queue}', 'd')",
        "ack(1)",
        "create_queue('other')",
        f"dlq_inspect('{queue}')",
        "_queue('x'::text)",
    ):
        with refused("42501", "permission denied for function"):
            autoconn.execute(f"select pgque.{call}".encode())
    for table in ("event_1", "queue", "cursor", "tick", "retry_queue", "dead_letter"):
        with refused("42501", "permission denied for table"):
            autoconn.execute(f"select from pgque.{table}".encode())
    autoconn.execute("reset role")
    assert payloads(drain(autoconn, queue, consumer)) == ["written", "a", "b"]


def test_a_reader_can_only_consume(autoconn, queue, act_as):
    act_as("pgque_reader")
    value(autoconn, "select pgque.subscribe(%s, 'c')", queue)
    autoconn.execute("reset role")
    for _ in range(3):
        send(autoconn, queue)
    tick(autoconn, queue)
    act_as("pgque_reader")
    batch = receive(autoconn, queue, "c", 2)
    nack(autoconn, batch[0])
    event_retry = "select pgque.event_retry(%s, %s, 0)"
    assert value(autoconn, event_retry, batch[0].batch_id, batch[1].msg_id) == 1
    assert (
        value(autoconn, "select count(*) from pgque.get_batch_events(%s)", batch[0].batch_id) == 2
    )
    assert ack(autoconn, batch) == 1
    for call in (
        f"send('{queue}', 'x'::text)",
        f"insert_event('{queue}', 't', 'x')",
        "dlq_replay(1)",
        "ticker()",
        "maint()",
        f"drop_queue('{queue}', true)",
        "get_batch_cursor(1, 'c', 1)",
        "batch_retry(1, 1)",
        "_move(null)",
    ):
        with refused("42501", "permission denied for function"):
            autoconn.execute(f"select pgque.{call}".encode())
    for table in ("event_1", "event_1_0", "queue", "subscription", "tick", "retry_queue", "config"):
        autoconn.execute(f"select from pgque.{table}".encode())
        if table != "subscription":
            with refused("42501", "permission denied for table"):
                autoconn.execute(f"truncate pgque.{table}".encode())
    assert len(receive_coop(autoconn, queue, "g", "a")) == 0
    assert value(autoconn, "select pgque.seek(%s, 'g', 1)", queue) == 1
    assert len(receive_coop(autoconn, queue, "g", "a")) == 3


def test_an_admin_can_do_everything_but_uninstall(autoconn, act_as):
    act_as("pgque_admin")
    value(autoconn, "select pgque.create_queue('q')")
    value(autoconn, "select pgque.subscribe('q', 'c')")
    value(autoconn, "select pgque.set_queue_config('q', 'max_retries', '0')")
    for _ in range(3):
        send(autoconn, "q")
    assert value(autoconn, "select pgque.ticker()") == 1
    batch = receive(autoconn, "q", "c")
    nack(autoconn, batch[0])
    assert value(autoconn, "select pgque.batch_retry(%s, 0)", batch[0].batch_id) == 3
    ack(autoconn, batch)
    assert value(autoconn, "select pgque.dlq_replay(dl_id) from pgque.dlq_inspect('q')") > 3
    assert value(autoconn, "select pgque.maint()") == 3
    assert len(drain(autoconn, "q", "c")) == 4
    assert len(autoconn.execute("select * from pgque.status()").fetchall()) == 6
    with refused("42501", "permission denied for function uninstall"):
        autoconn.execute("select pgque.uninstall()")
    with refused("42501", "must be owner of schema pgque"):
        autoconn.execute("drop schema pgque cascade")
    assert value(autoconn, "select pgque.drop_queue('q', true)") == 1


def test_p11_the_condition_of_get_batch_cursor_runs_with_the_callers_rights(
    conn, autoconn, queue, consumer
):
    for n in range(3):
        send(autoconn, queue, n)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    conn.execute("set role pgque_admin")
    conn.execute("set search_path = 'public'")
    query = "select ev_data from pgque.get_batch_cursor(%s, 'c', 1, %s)"
    condition = "ev_id > 1 and current_user = 'pgque_admin'"
    assert column(conn, query, batch[0].batch_id, condition) == ["1"]
    assert len(conn.execute("fetch all from c").fetchall()) == 1
    conn.execute("close c")
    with refused("42501", "permission denied"), conn.transaction():
        conn.execute(
            query, [batch[0].batch_id, "(select rolpassword is null from pg_authid limit 1)"]
        )


def test_an_owner_without_any_other_right_can_do_everything(databases, server_dsn):
    create = "create role plain_owner"
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(f"do $$ begin {create}; exception when duplicate_object then null; end $$")
    dsn = databases.create()
    try:
        with psycopg.connect(dsn, autocommit=True) as admin:
            name = sql.Identifier(admin.info.dbname)
            admin.execute(sql.SQL("alter database {} owner to plain_owner").format(name))
        install(make_conninfo(dsn, options="-c role=plain_owner"))
        with psycopg.connect(dsn, autocommit=True, options="-c role=plain_owner") as conn:
            value(conn, "select pgque.create_queue('q')")
            value(conn, "select pgque.subscribe('q', 'c')")
            for n in range(3):
                send(conn, "q", n)
                tick(conn, "q")
                batch = receive(conn, "q", "c")
                nack(conn, batch[0])
                ack(conn, batch)
                value(conn, "select pgque.maint()")
                assert len(drain(conn, "q", "c")) == 1
                assert rotate(conn, "q") == 1
                assert rotate_ledger(conn)
            assert len(conn.execute("select * from pgque.status()").fetchall()) == 6
            value(conn, "select pgque.drop_queue('q', true)")
            value(conn, "select pgque.uninstall()")
    finally:
        databases.drop(dsn)


def test_p5_an_installation_does_not_wait_for_working_transactions(
    connect, autoconn, queue, consumer
):
    """They have sent, received, nacked, made dead letters and taken over a batch."""
    value(autoconn, "select pgque.set_queue_config(%s, 'max_retries', '1')", queue)
    for n in range(2):
        send(autoconn, queue, n)
    tick(autoconn, queue)
    worker = connect()
    batch = receive(worker, queue, consumer)
    nack(worker, batch[0])
    event_dead = "select pgque.event_dead(%s, %s, 'r', now(), '1', 0, 't', 'd')"
    value(worker, event_dead, batch[0].batch_id, batch[1].msg_id)
    ack(worker, batch)
    send(worker, queue)
    tick(worker, queue)
    with psycopg.connect(autoconn.info.dsn, autocommit=True) as installer:
        installer.execute("set lock_timeout = '2s'")
        install(installer)
    worker.commit()
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 1


def test_an_admin_can_read_a_batch_by_cursor_after_a_rotation_of_the_ledger(
    autoconn, queue, consumer, act_as
):
    rotate_ledger(autoconn)
    send(autoconn, queue, "one")
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    act_as("pgque_admin")
    call = "select ev_data from pgque.get_batch_cursor(%s, 'c', 10)"
    with autoconn.transaction():
        assert autoconn.execute(call, [batch[0].batch_id]).fetchall() == [("one",)]
