"""Consumers under REPEATABLE READ and SERIALIZABLE: an old snapshot never moves a position (P3)."""

import pytest

from tests.fix_engine import (
    ack,
    drain,
    ids,
    payloads,
    receive,
    refused,
    rotate_ledger,
    send,
    send_many,
    tick,
    value,
)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("call", ["receive", "receive_merged", "next_batch"])
def test_p3_a_consumer_with_an_old_snapshot_gets_40001_instead_of_an_old_position(
    connect, autoconn, queue, consumer, level, rotated, call
):
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    old = connect()
    old.execute(f"set transaction isolation level {level}".encode())
    value(old, "select count(*) from pg_class")
    assert len(drain(autoconn, queue, consumer)) == 3
    if rotated:
        assert rotate_ledger(autoconn)
        send(autoconn, queue, "later")
        assert len(drain(autoconn, queue, consumer)) == 1
    with refused("40001", "could not serialize access"):
        old.execute(f"select pgque.{call}(%s, %s)".encode(), [queue, consumer])
    old.rollback()
    old.execute(f"set transaction isolation level {level}".encode())
    assert receive(old, queue, consumer) == []


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_p3_a_consumer_with_a_fresh_snapshot_works_normally(
    connect, autoconn, queue, consumer, level
):
    worker = connect()
    worker.isolation_level = {
        "repeatable read": 3,
        "serializable": 4,
    }[level]
    sent = []
    got = []
    for n in range(6):
        sent += send_many(autoconn, queue, 5)
        tick(autoconn, queue)
        if n in (2, 4):
            assert rotate_ledger(autoconn)
        while batch := receive(worker, queue, consumer, 3):
            got += ids(batch)
            assert ack(worker, batch) == 1
            worker.commit()
        worker.commit()
    assert got == sent


@pytest.mark.parametrize("rotations", [0, 1, 2, 3])
def test_p3_an_ack_in_an_old_snapshot_changes_nothing_and_reports_it(
    connect, autoconn, queue, consumer, rotations
):
    """It returns 0 if the batch was opened after the snapshot, or raises 40001; never a wrong 1."""
    sent = send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    first = receive(autoconn, queue, consumer, 1)
    old = connect()
    old.execute("set transaction isolation level repeatable read")
    value(old, "select count(*) from pg_class")
    for _ in range(rotations):
        assert rotate_ledger(autoconn)
    if rotations:
        with refused("40001", "could not serialize access"):
            ack(old, first)
        old.rollback()
        assert ack(autoconn, first) == 1
    else:
        assert ack(autoconn, first) == 1
        with refused("40001", "could not serialize access"):
            ack(old, first)
        old.rollback()
    assert ids(drain(autoconn, queue, consumer)) == sent[1:]


def test_p2_a_subscribe_in_an_old_snapshot_works_or_fails_with_40001(connect, autoconn, queue):
    old = connect()
    old.execute("set transaction isolation level repeatable read")
    value(old, "select count(*) from pg_class")
    send(autoconn, queue, "before")
    tick(autoconn, queue)
    value(old, "select pgque.subscribe(%s, 'c')", queue)
    old.commit()
    assert payloads(drain(autoconn, queue, "c")) == ["before"]

    old.execute("set transaction isolation level repeatable read")
    value(old, "select count(*) from pg_class")
    assert rotate_ledger(autoconn)
    for call in ("subscribe(%s, 'd')", "register_subconsumer(%s, 'd', 'e')"):
        with refused("40001", "could not serialize access"), old.transaction():
            old.execute(f"select pgque.{call}".encode(), [queue])
