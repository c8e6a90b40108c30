"""Redelivery: how nacked messages return to the log (sql/retry)."""

import pytest

from tests.fix_engine import (
    Thread,
    ack,
    column,
    configure,
    drain,
    ids,
    is_blocked,
    log_of,
    nack,
    open_batch,
    payloads,
    receive,
    refused,
    retry,
    rotate,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)
from tests.running import eventually


def test_p4_redeliveries_are_sorted_among_new_events(autoconn, queue, consumer):
    batch = open_batch(autoconn, queue, consumer, 4)
    for message in (batch[2], batch[0]):
        nack(autoconn, message)
    ack(autoconn, batch)
    retry(autoconn)
    new = send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    assert ids(receive(autoconn, queue, consumer)) == [batch[0].msg_id, batch[2].msg_id, *new]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("merged", [False, True])
def test_p6_redeliveries_by_several_transactions_can_be_read_in_pieces(
    autoconn, queue, consumer, size, merged
):
    batch = open_batch(autoconn, queue, consumer, 9)
    expected = []
    for n in (5, 0, 7, 3):
        nack(autoconn, batch[n])
        retry(autoconn)
        expected += [batch[n].msg_id, send(autoconn, queue)]
        if n == 0:
            tick(autoconn, queue)
    ack(autoconn, batch)
    assert sorted(ids(drain(autoconn, queue, consumer, size, merged=merged))) == sorted(expected)


def test_p6_a_redelivery_below_the_cut_of_the_previous_window_is_delivered(
    autoconn, queue, consumer
):
    """It has an old id, which the cut of the previous batch must not hide in the next window."""
    [old] = open_batch(autoconn, queue, consumer)
    nack(autoconn, old)
    ack(autoconn, old.batch_id)
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer, 2))
    retry(autoconn)
    assert [m.retry_count for m in drain(autoconn, queue, consumer, 2)] == [0, 1]


def test_p1_retries_of_a_maintenance_run_that_commits_late_are_delivered(
    connect, autoconn, queue, consumer
):
    [message] = open_batch(autoconn, queue, consumer)
    nack(autoconn, message)
    ack(autoconn, message.batch_id)
    maintenance = connect()
    assert retry(maintenance) == 1
    send(autoconn, queue, "between")
    assert payloads(drain(autoconn, queue, consumer)) == ["between"]
    maintenance.commit()
    [again] = drain(autoconn, queue, consumer)
    assert (again.msg_id, again.retry_count) == (message.msg_id, 1)


def test_p5_two_maintenance_runs_share_the_work(connect, autoconn, queue, consumer):
    batch = open_batch(autoconn, queue, consumer, 3)
    for message in batch:
        nack(autoconn, message)
    ack(autoconn, batch)
    first = connect()
    assert retry(first) == 3
    autoconn.execute("set lock_timeout = '1s'")
    assert retry(autoconn) == 0
    first.rollback()
    assert retry(autoconn) == 3


def test_more_retries_than_one_statement_handles_are_put_back(autoconn, queue, consumer):
    batch = open_batch(autoconn, queue, consumer, 5001)
    assert value(autoconn, "select pgque.batch_retry(%s, 0)", batch[0].batch_id) == 5001
    ack(autoconn, batch)
    assert retry(autoconn) == 5001
    assert ids(drain(autoconn, queue, consumer, 2000)) == ids(batch)


def test_retries_count_as_events_for_the_ticker(autoconn, queue, consumer):
    batch = open_batch(autoconn, queue, consumer, 3)
    value(autoconn, "select pgque.batch_retry(%s, 0)", batch[0].batch_id)
    ack(autoconn, batch)
    settle(autoconn, queue)
    configure(autoconn, queue, ticker_max_lag="1 hour", ticker_max_count=3)
    assert tick(autoconn, queue) is None
    retry(autoconn)
    assert tick(autoconn, queue) is not None


def test_p5_a_queue_that_cannot_take_its_retries_does_not_block_the_others(
    autoconn, queue, consumer
):
    value(autoconn, "select pgque.create_queue('bad')")
    subscribe(autoconn, "bad", "c")
    for name, reader in (("bad", "c"), (queue, consumer)):
        [message] = open_batch(autoconn, name, reader)
        nack(autoconn, message)
        ack(autoconn, message.batch_id)
    current = value(autoconn, "select queue_cur_table from pgque.queue where queue_name = 'bad'")
    autoconn.execute(f"drop table {log_of(autoconn, 'bad')}_{current}".encode())
    assert retry(autoconn) == 1
    assert len(drain(autoconn, queue, consumer)) == 1


def test_p2_a_redelivery_survives_rotations_until_it_is_acked(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    nack(autoconn, message)
    ack(autoconn, message.batch_id)
    rotated = [rotate(autoconn, queue) for _ in range(4)]
    assert rotated[0] == 1
    retry(autoconn)
    for _ in range(4):
        rotate(autoconn, queue)
        tick(autoconn, queue)
    [again] = receive(autoconn, queue, consumer)
    nack(autoconn, again)
    ack(autoconn, again.batch_id)
    assert column(autoconn, "select ev_retry from pgque.retry_queue") == [2]


def test_p5_a_nack_waits_for_another_process_of_the_same_consumer(
    connect, autoconn, queue, consumer
):
    [message] = open_batch(autoconn, queue, consumer)
    first, second = connect(), connect(autocommit=True)
    assert receive(first, queue, consumer) == [message]
    ack(first, message.batch_id)
    waiting = Thread(lambda: nack(second, message))
    eventually(lambda: is_blocked(autoconn, second))
    first.commit()
    with refused("PQ003", f"batch not found: {message.batch_id}"):
        waiting.outcome()
