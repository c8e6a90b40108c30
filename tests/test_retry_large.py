"""nack in a batch of thousands finds its event without reading the rest (sql/batch)."""

import pytest

from tests.fix_engine import (
    ack,
    column,
    drain,
    ids,
    nack,
    receive,
    refused,
    retry,
    send,
    send_many,
    tick,
    value,
)

MANY = 2100


def waiting(conn) -> list[int]:
    return column(conn, "select ev_id from pgque.retry_queue order by ev_id")


def some(messages) -> list:
    """The first and last three messages, and a sample of those in between."""
    return [*messages[:3], *messages[3:-3:97], *messages[-3:]]


def test_events_of_single_transactions_are_found(autoconn, queue, consumer):
    for _ in range(300):
        send(autoconn, queue)
    send_many(autoconn, queue, MANY)
    for _ in range(300):
        send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 2 * MANY)
    chosen = some(batch)
    for message in chosen:
        nack(autoconn, message)
    assert waiting(autoconn) == ids(chosen)


def test_events_of_interleaved_transactions_are_found(connect, autoconn, queue, consumer):
    """Each transaction has ids over the whole range, so transaction order does not follow ids."""
    senders = [connect() for _ in range(30)]
    for turn in range(5):
        for sender in senders if turn % 2 else reversed(senders):
            send_many(sender, queue, 15)
    for sender in senders:
        sender.commit()
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 2 * MANY)
    assert len(batch) == 30 * 5 * 15 + 10
    chosen = some(batch)
    for message in chosen:
        nack(autoconn, message)
    assert waiting(autoconn) == ids(chosen)


@pytest.mark.parametrize("with_late", [False, True])
def test_events_of_an_older_transaction_are_found(connect, autoconn, queue, consumer, with_late):
    other = connect()
    late = send_many(other, queue, 5)
    if with_late:
        tick(autoconn, queue)
    late += send_many(other, queue, 5)
    sent = send_many(autoconn, queue, MANY)
    late += send_many(other, queue, 5)
    other.commit()
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 2 * MANY)
    if not batch:
        batch = receive(autoconn, queue, consumer, 2 * MANY)
    assert ids(batch) == sorted(late + sent)
    for message in batch:
        if message.msg_id in late:
            nack(autoconn, message)
    assert waiting(autoconn) == late


def test_a_redelivered_event_is_found_as_its_latest_attempt(autoconn, queue, consumer):
    send_many(autoconn, queue, 20)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    for message in batch:
        nack(autoconn, message)
    ack(autoconn, batch)
    send_many(autoconn, queue, MANY)
    assert retry(autoconn) == 20
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 2 * MANY)
    assert len(batch) == MANY + 20
    for message in batch[:20]:
        assert message.retry_count == 1
        nack(autoconn, message)
    assert column(autoconn, "select distinct ev_retry from pgque.retry_queue") == [2]
    assert waiting(autoconn) == ids(batch[:20])


def test_the_latest_attempt_counts_if_a_batch_contains_two(autoconn, queue, consumer):
    """This happens after a seek back."""
    start = value(autoconn, "select max(tick_id) from pgque.tick")
    send_many(autoconn, queue, MANY)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 2 * MANY)
    nack(autoconn, batch[7])
    ack(autoconn, batch)
    assert retry(autoconn) == 1
    tick(autoconn, queue)
    autoconn.execute("select pgque.seek(%s, %s, %s::bigint)", [queue, consumer, start])
    batch = receive(autoconn, queue, consumer, 2 * MANY, merged=True)
    both = [message for message in batch if message.msg_id == batch[7].msg_id]
    assert sorted(message.retry_count for message in both) == [0, 1]
    nack(autoconn, both[0])
    assert column(autoconn, "select ev_retry from pgque.retry_queue") == [2]


def test_events_outside_the_batch_are_refused(connect, autoconn, queue, consumer):
    """Before it, after it, beyond its cut, rolled back, or with an id that never existed."""
    gone = connect()
    earlier = send(autoconn, queue)
    assert len(drain(autoconn, queue, consumer)) == 1
    for _ in range(10):
        send(autoconn, queue)
    rolled_back = send(gone, queue)
    gone.rollback()
    send_many(autoconn, queue, MANY)
    beyond = send(autoconn, queue)
    tick(autoconn, queue)
    later = send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, MANY + 10)
    assert len(batch) == MANY + 10
    for number in (earlier, rolled_back, beyond, later, later + 1000, 0, -1, 2**63 - 1, -(2**63)):
        message = batch[0]._replace(msg_id=number)
        with refused("PQ004", f"msg_id {number} not found in batch {message.batch_id}"):
            nack(autoconn, message)
    for message in (batch[0], batch[-1]):
        nack(autoconn, message)
    assert waiting(autoconn) == [batch[0].msg_id, batch[-1].msg_id]
