"""Nack, retry and redelivery (sql/retry)."""

import pytest

from tests.fix_engine import (
    ack,
    configure,
    drain,
    ids,
    nack,
    open_batch,
    payloads,
    receive,
    refused,
    retry,
    send,
    subscribe,
    tick,
    value,
)
from tests.running import eventually


def test_a_nacked_message_is_redelivered_to_its_own_consumer_only(autoconn, queue, consumer):
    subscribe(autoconn, queue, "other")
    batch = open_batch(autoconn, queue, consumer, 3)
    assert nack(autoconn, batch[1]) == 1
    assert ack(autoconn, batch) == 1
    assert receive(autoconn, queue, consumer) == []
    assert retry(autoconn) == 1
    [again] = drain(autoconn, queue, consumer)
    assert again._replace(batch_id=0, retry_count=0) == batch[1]._replace(batch_id=0)
    assert again.retry_count == 1
    assert len(drain(autoconn, queue, "other")) == 3
    assert retry(autoconn) == 0


def test_a_redelivered_message_keeps_id_time_type_payload_and_extra_fields(
    autoconn, queue, consumer
):
    value(autoconn, "select pgque.insert_event(%s, 't', 'd', 'a', 'b', 'c', 'd')", queue)
    tick(autoconn, queue)
    [message] = receive(autoconn, queue, consumer)
    for count in range(1, 4):
        nack(autoconn, message)
        ack(autoconn, message.batch_id)
        retry(autoconn)
        tick(autoconn, queue)
        [again] = receive(autoconn, queue, consumer)
        assert again.retry_count == count
        assert again._replace(batch_id=0, retry_count=0) == message._replace(
            batch_id=0, retry_count=0
        )
        message = again


def test_p10_nack_uses_only_the_id_of_the_message(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    liar = (
        "select pgque.nack(%s, row(%s, 777, 'liar', 'lies', 99, '2000-01-01', 'x', 'x', 'x', 'x')"
        "::pgque.message, '0')"
    )
    assert value(autoconn, liar, message.batch_id, message.msg_id) == 1
    ack(autoconn, message.batch_id)
    retry(autoconn)
    [again] = drain(autoconn, queue, consumer)
    assert again[2:5] == ("default", "1", 1)


@pytest.mark.parametrize("retry_after", ["0.3 seconds", "300 milliseconds", "1 hour", None])
def test_a_message_is_not_redelivered_before_retry_after(autoconn, queue, consumer, retry_after):
    [message] = open_batch(autoconn, queue, consumer)
    before = value(autoconn, "select clock_timestamp()")
    nack(autoconn, message, retry_after)
    after = value(autoconn, "select clock_timestamp()")
    ack(autoconn, message.batch_id)
    due = value(autoconn, "select ev_retry_after from pgque.retry_queue")
    wait = value(autoconn, "select %s::interval", retry_after or "60 seconds")
    assert before + wait <= due <= after + wait
    if wait.total_seconds() > 1:
        assert retry(autoconn) == 0
    else:
        eventually(lambda: retry(autoconn) == 1)
        assert value(autoconn, "select clock_timestamp() >= %s", due)


def test_nack_accepts_named_arguments_and_has_defaults(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    call = "select pgque.nack(msg := m, batch_id := m.batch_id) from pgque.receive(%s, %s) as m"
    assert value(autoconn, call, queue, consumer) == 1
    wait = (
        "select ev_retry_after - clock_timestamp() between '50 s' and '60 s' from pgque.retry_queue"
    )
    assert value(autoconn, wait)
    assert ack(autoconn, message.batch_id) == 1


def test_a_negative_interval_means_immediately(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    nack(autoconn, message, "-1 day")
    assert retry(autoconn) == 1


def test_several_nacks_of_one_message_are_one_retry(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    assert [nack(autoconn, message) for _ in range(3)] == [1, 1, 1]
    ack(autoconn, message.batch_id)
    assert retry(autoconn) == 1
    [again] = drain(autoconn, queue, consumer)
    assert again.retry_count == 1


def test_p3_messages_that_were_not_nacked_are_not_redelivered(autoconn, queue, consumer):
    batch = open_batch(autoconn, queue, consumer, 10)
    for message in batch[::3]:
        nack(autoconn, message)
    ack(autoconn, batch)
    retry(autoconn)
    assert ids(drain(autoconn, queue, consumer)) == ids(batch[::3])


def test_a_rolled_back_nack_has_no_effect(conn, autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    nack(conn, message)
    conn.rollback()
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 0
    ack(autoconn, message.batch_id)
    assert drain(autoconn, queue, consumer) == []


def test_p10_the_error_names_a_message_that_is_not_in_the_batch(autoconn, queue, consumer):
    old = open_batch(autoconn, queue, consumer, 2)
    ack(autoconn, old)
    batch = open_batch(autoconn, queue, consumer, 5)
    [first, second] = receive(autoconn, queue, consumer, 2)
    future = send(autoconn, queue)
    for event_id in (old[0].msg_id, batch[2].msg_id, batch[4].msg_id, future, 0, None):
        text = "<NULL>" if event_id is None else event_id
        with refused("PQ004", f"msg_id {text} not found in batch {first.batch_id}"):
            nack(autoconn, first._replace(msg_id=event_id))
        for when in ("1", "now()"):
            with refused("PQ004", f"event not found: {text} in batch {first.batch_id}"):
                autoconn.execute(
                    f"select pgque.event_retry(%s, %s, {when})".encode(),
                    [first.batch_id, event_id],
                )
    with refused("PQ004", "msg_id <NULL> not found"):
        autoconn.execute("select pgque.nack(%s, null)", [first.batch_id])
    assert nack(autoconn, second) == 1
    ack(autoconn, first.batch_id)
    with refused("PQ003", f"batch not found: {first.batch_id}"):
        nack(autoconn, first)
    rest = receive(autoconn, queue, consumer)
    with refused("PQ004", f"msg_id {first.msg_id} not found in batch {rest[0].batch_id}"):
        nack(autoconn, first, batch_id=rest[0].batch_id)


def test_p1_a_message_of_a_late_transaction_can_be_nacked(connect, autoconn, queue, consumer):
    late = connect()
    send(late, queue, "late")
    open_before = open_batch(autoconn, queue, consumer, 2)
    with refused("PQ004", "not found"):
        nack(autoconn, open_before[0]._replace(msg_id=1))
    late.commit()
    with refused("PQ004", "not found"):
        nack(autoconn, open_before[0]._replace(msg_id=1))
    ack(autoconn, open_before)
    tick(autoconn, queue)
    [message] = receive(autoconn, queue, consumer)
    nack(autoconn, message)
    ack(autoconn, message.batch_id)
    retry(autoconn)
    assert payloads(drain(autoconn, queue, consumer)) == ["late"]


# At the limit


def test_at_max_retries_a_message_becomes_one_dead_letter(autoconn, queue, consumer):
    configure(autoconn, queue, max_retries=2)
    [message] = open_batch(autoconn, queue, consumer)
    for count in range(2):
        assert message.retry_count == count
        nack(autoconn, message)
        ack(autoconn, message.batch_id)
        retry(autoconn)
        tick(autoconn, queue)
        [message] = receive(autoconn, queue, consumer)
    assert message.retry_count == 2
    assert [nack(autoconn, message, reason="broken") for _ in range(2)] == [1, 1]
    ack(autoconn, message.batch_id)
    assert retry(autoconn) == 0
    dead = autoconn.execute("select dl_reason, ev_id, ev_retry from pgque.dead_letter").fetchall()
    assert dead == [("broken", message.msg_id, 2)]


def test_with_max_retries_0_the_first_nack_makes_a_dead_letter(autoconn, queue, consumer):
    configure(autoconn, queue, max_retries=0)
    [message] = open_batch(autoconn, queue, consumer)
    nack(autoconn, message, "1 hour")
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 0
    assert value(autoconn, "select dl_reason from pgque.dead_letter") == "failed after 0 retries"


def test_the_default_is_five_retries(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    deliveries = 1
    while True:
        nack(autoconn, message)
        ack(autoconn, message.batch_id)
        retry(autoconn)
        tick(autoconn, queue)
        batch = receive(autoconn, queue, consumer)
        if not batch:
            break
        [message] = batch
        deliveries += 1
    assert deliveries == 6
    assert value(autoconn, "select ev_retry from pgque.dead_letter") == 5


# The calls of PgQ


def test_event_retry_takes_a_time_or_seconds_and_ignores_max_retries(autoconn, queue, consumer):
    configure(autoconn, queue, max_retries=0)
    first, second, third = open_batch(autoconn, queue, consumer, 3)
    at = "select pgque.event_retry(%s, %s, %s::timestamptz)"
    assert value(autoconn, at, first.batch_id, first.msg_id, "2000-01-01") == 1
    assert value(autoconn, at, first.batch_id, first.msg_id, "2000-01-01") == 0
    named = "select pgque.event_retry(batch_id := %s, event_id := %s, retry_seconds := 0)"
    assert value(autoconn, named, second.batch_id, second.msg_id) == 1
    for kind in ("timestamptz", "int"):
        with refused("22023", "retry_time must not be null"):
            autoconn.execute(
                f"select pgque.event_retry(%s, %s, null::{kind})".encode(),
                [third.batch_id, third.msg_id],
            )
    ack(autoconn, first.batch_id)
    assert retry(autoconn) == 2
    assert ids(drain(autoconn, queue, consumer)) == [first.msg_id, second.msg_id]


def test_batch_retry_takes_all_messages_that_do_not_wait_already(autoconn, queue, consumer):
    batch = open_batch(autoconn, queue, consumer, 5)
    nack(autoconn, batch[0])
    assert value(autoconn, "select pgque.batch_retry(%s, 0)", batch[0].batch_id) == 4
    assert (
        value(autoconn, "select pgque.batch_retry(%s, retry_seconds := 0)", batch[0].batch_id) == 0
    )
    with refused("22023", "retry_seconds must not be null"):
        autoconn.execute("select pgque.batch_retry(%s, null)", [batch[0].batch_id])
    ack(autoconn, batch)
    assert retry(autoconn) == 5
    assert ids(drain(autoconn, queue, consumer)) == ids(batch)


def test_batch_retry_of_a_piece_takes_only_the_piece(autoconn, queue, consumer):
    open_batch(autoconn, queue, consumer, 5)
    piece = receive(autoconn, queue, consumer, 2)
    assert value(autoconn, "select pgque.batch_retry(%s, 0)", piece[0].batch_id) == 2
    ack(autoconn, piece)
    retry(autoconn)
    assert sorted(ids(drain(autoconn, queue, consumer))) == [1, 2, 3, 4, 5]
