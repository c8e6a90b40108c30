"""TRUNCATE returns the space of the log and loses nothing (sql/rotate, sql/ledger)."""

import pytest

from tests.fix_engine import (
    ack,
    column,
    configure,
    drain,
    ids,
    log_of,
    nack,
    payloads,
    receive,
    rotate,
    rotate_ledger,
    send,
    send_many,
    subscribe,
    tick,
    value,
)


def children(conn, queue) -> list[int]:
    """The number of events in each child of the log."""
    log = log_of(conn, queue)
    return [value(conn, f"select count(*) from {log}_{n}") for n in range(3)]


def ledger_bytes(conn) -> int:
    query = (
        "select sum(pg_relation_size(format('pgque.%s_%s', kind, n)))::bigint "
        "from unnest('{tick,cursor}'::text[]) as kind, generate_series(0, 1) as n"
    )
    return value(conn, query)


# The log


def test_rotation_uses_the_children_in_turn_and_truncates_the_oldest(autoconn, queue, consumer):
    counts = []
    for n in range(7):
        send_many(autoconn, queue, n + 1)
        drain(autoconn, queue, consumer)
        counts.append(children(autoconn, queue))
        assert rotate(autoconn, queue) == 1
    assert counts == [
        [1, 0, 0],
        [1, 2, 0],
        [1, 2, 3],
        [4, 2, 3],
        [4, 5, 3],
        [4, 5, 6],
        [7, 5, 6],
    ]


def test_rotation_waits_for_its_period(autoconn, queue, consumer):
    send(autoconn, queue)
    drain(autoconn, queue, consumer)
    step1 = "select pgque.maint_rotate_tables_step1(queue := %s)"
    assert value(autoconn, step1, queue) == 0
    configure(autoconn, queue, rotation_period="1 microsecond")
    assert value(autoconn, step1, queue) == 1
    configure(autoconn, queue, rotation_period=None)
    assert value(autoconn, step1, queue) == 0


def test_an_empty_log_is_not_rotated(autoconn, queue, consumer):
    assert rotate(autoconn, queue) == 0
    send(autoconn, queue)
    drain(autoconn, queue, consumer)
    assert [rotate(autoconn, queue) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert sum(children(autoconn, queue)) == 0


def test_step_2_does_nothing_and_returns_0(autoconn):
    assert value(autoconn, "select pgque.maint_rotate_tables_step2()") == 0


def test_p1_events_that_a_consumer_has_not_acked_are_kept(autoconn, queue, consumer):
    subscribe(autoconn, queue, "slow")
    sent = []
    for n in range(6):
        sent += send_many(autoconn, queue, 3)
        assert len(drain(autoconn, queue, consumer)) == 3
        assert rotate(autoconn, queue) == (1 if n < 2 else 0)
    assert ids(drain(autoconn, queue, "slow", 2)) == sent
    assert rotate(autoconn, queue) == 1


def test_p1_an_open_batch_keeps_its_events(autoconn, queue, consumer):
    sent = send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 2)
    for _ in range(3):
        rotate(autoconn, queue)
    assert receive(autoconn, queue, consumer, 2) == batch
    ack(autoconn, batch)
    for _ in range(3):
        rotate(autoconn, queue)
    assert ids(drain(autoconn, queue, consumer)) == sent[2:]


def test_p1_unticked_events_are_kept_even_without_consumers(autoconn, queue):
    send(autoconn, queue, "kept")
    for _ in range(4):
        rotate(autoconn, queue)
    subscribe(autoconn, queue, "c")
    assert payloads(drain(autoconn, queue, "c")) == ["kept"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("rotations", [1, 2, 3, 4])
def test_p2_events_of_a_producer_with_a_snapshot_from_before_a_rotation_are_delivered(
    connect, autoconn, queue, consumer, level, rotations
):
    """It writes to the child that its snapshot shows, with a current transaction id."""
    old = connect()
    old.execute(f"set transaction isolation level {level}".encode())
    value(old, "select count(*) from pgque.queue")
    for _ in range(rotations):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        assert rotate(autoconn, queue) == 1
    send(old, queue, "old snapshot")
    for _ in range(3):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        rotate(autoconn, queue)
    old.commit()
    for _ in range(2):
        rotate(autoconn, queue)
    assert payloads(drain(autoconn, queue, consumer)) == ["old snapshot"]


def test_p2_a_prepared_transaction_can_commit_two_rotations_later(conn, autoconn, queue, consumer):
    send(conn, queue, "prepared")
    conn.execute(f"prepare transaction 'rotation {queue}'".encode())
    rotated = 0
    for _ in range(6):
        send(autoconn, queue, "other")
        drain(autoconn, queue, consumer)
        rotated += rotate(autoconn, queue)
        assert rotate_ledger(autoconn)
    assert rotated == 2
    autoconn.execute(f"commit prepared 'rotation {queue}'".encode())
    assert payloads(drain(autoconn, queue, consumer)) == ["prepared"]
    assert rotate(autoconn, queue) == 1


def test_p2_a_rolled_back_prepared_transaction_is_never_delivered(conn, autoconn, queue, consumer):
    send(conn, queue, "undone")
    conn.execute(f"prepare transaction 'undone {queue}'".encode())
    send(autoconn, queue)
    drain(autoconn, queue, consumer)
    autoconn.execute(f"rollback prepared 'undone {queue}'".encode())
    assert drain(autoconn, queue, consumer) == []


def test_p7_an_unrelated_old_transaction_does_not_stop_rotation(connect, autoconn, queue, consumer):
    old = connect()
    value(old, "select pg_current_xact_id()")
    old.execute("create table elsewhere ()")
    for _ in range(6):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        assert rotate(autoconn, queue) == 1
    assert sum(children(autoconn, queue)) == 2


def test_p5_a_consumer_with_slow_handlers_does_not_stop_rotation(
    connect, autoconn, queue, consumer
):
    """It has received, nacked and acked, and its transaction stays open over all rotations."""
    subscribe(autoconn, queue, "slow")
    worker = connect()
    for n in range(5):
        send_many(autoconn, queue, 2)
        assert len(drain(autoconn, queue, consumer)) == 2
        if n == 0:
            first, second = receive(worker, queue, "slow")
            nack(worker, first, "1 hour")
            assert receive(worker, queue, "slow") == [first, second]
        rotated = rotate(autoconn, queue)
        assert rotated == (1 if n < 2 else 0), "two rotations succeed before its commit"
    ack(worker, first.batch_id)
    rest = receive(worker, queue, "slow")
    assert len(rest) == 2
    ack(worker, rest)
    worker.commit()
    batch = receive(worker, queue, "slow")
    assert batch
    assert rotate(autoconn, queue) == 1, "its acked events can be truncated"
    value(worker, "select pgque.get_batch_events(%s)", batch[0].batch_id)
    ack(worker, batch)
    while batch := receive(worker, queue, "slow"):
        ack(worker, batch)
    worker.commit()
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 1


def test_p5_rotation_succeeds_under_constant_readers(connect, autoconn, queue, consumer):
    """At every moment some open transaction has read the log."""
    readers = [connect() for _ in range(3)]
    names = [f"reader {n}" for n in range(3)]
    subscribe(autoconn, queue, *names)
    rotated = 0
    switched = 0
    send(autoconn, queue)
    tick(autoconn, queue)
    for reader, name in zip(readers, names, strict=True):
        assert receive(reader, queue, name)
    for n in range(30):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        reader, name = readers[n % 3], names[n % 3]
        ack(reader, receive(reader, queue, name))
        reader.commit()
        assert receive(reader, queue, name)
        rotated += rotate(autoconn, queue)
        autoconn.execute("update pgque.config set ledger_max_bytes = 0")
        autoconn.execute("select setval('pgque.ledger_kept_bytes', 0)")
        switched += value(autoconn, "select pgque.maint_rotate_ledger()")
    assert rotated >= 6
    assert switched >= 3


def test_p5_a_child_in_use_is_truncated_later(connect, autoconn, queue, consumer):
    send(autoconn, queue)
    drain(autoconn, queue, consumer)
    for _ in range(2):
        rotate(autoconn, queue)
    reader = connect()
    value(reader, f"select count(*) from {log_of(autoconn, queue)}")
    assert rotate(autoconn, queue) == 0
    reader.rollback()
    assert rotate(autoconn, queue) == 1


def test_p5_maint_rotates_every_due_queue_and_continues_after_a_fault(autoconn):
    for name in ("a", "bad", "c"):
        value(autoconn, "select pgque.create_queue(%s)", name)
        configure(autoconn, name, rotation_period="1 microsecond")
        send(autoconn, name)
        tick(autoconn, name)
    autoconn.execute(f"drop table {log_of(autoconn, 'bad')} cascade".encode())
    assert value(autoconn, "select pgque.maint()") == 2
    current = "select queue_cur_table from pgque.queue order by queue_id"
    assert column(autoconn, current) == [1, 0, 1]
