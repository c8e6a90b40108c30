"""Many messages of a batch in one call: nack_many, ack_part (sql/retry)."""

import pytest

from tests.fix_engine import (
    ack,
    column,
    configure,
    drain,
    nack,
    receive,
    receive_coop,
    refused,
    retry,
    send,
    send_many,
    tick,
    value,
)

# nack_many


def nack_many(conn, batch, numbers, reasons=None, retry_after="0") -> int:
    return value(
        conn,
        "select pgque.nack_many(%s, %s::bigint[], %s::interval, %s::text[])",
        batch[0].batch_id,
        [batch[number].msg_id for number in numbers],
        retry_after,
        reasons,
    )


def test_nack_many_treats_each_message_the_way_nack_does(autoconn, queue, consumer):
    configure(autoconn, queue, max_retries=1)
    for number in range(6):
        send(autoconn, queue, str(number))
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    assert nack_many(autoconn, batch, [4, 1, 1], ["d", "b", "b"]) == 2
    ack(autoconn, batch)
    retry(autoconn)
    tick(autoconn, queue)
    again = receive(autoconn, queue, consumer)
    assert [(m.payload, m.retry_count) for m in again] == [("1", 1), ("4", 1)]
    assert nack_many(autoconn, again, [0, 1], ["never", None]) == 2
    ack(autoconn, again)
    dead = autoconn.execute(
        "select ev_data, dl_reason from pgque.dlq_inspect(%s) order by ev_id", [queue]
    ).fetchall()
    assert dead == [("1", "never"), ("4", "failed after 1 retries")]


def test_p10_nack_many_nacks_all_messages_or_none(autoconn, queue, consumer):
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    call = "select pgque.nack_many(%s, %s::bigint[])"
    with refused("PQ004", f"msg_id 999 not found in batch {batch[0].batch_id}"):
        autoconn.execute(call, [batch[0].batch_id, [batch[0].msg_id, 999]])
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 0
    with refused("PQ004", "msg_id <NULL> not found"):
        autoconn.execute(call, [batch[0].batch_id, [batch[0].msg_id, None]])
    with refused("22023", "msg_ids must not be null"):
        autoconn.execute(call, [batch[0].batch_id, None])
    with refused("22023", "reasons must have one element"):
        nack_many(autoconn, batch, [0, 1], ["one"])
    ack(autoconn, batch)
    with refused("PQ003", "batch not found"):
        nack_many(autoconn, batch, [0])


def test_p7_nack_many_works_for_a_batch_sent_by_many_transactions(autoconn, queue, consumer):
    for number in range(300):
        send(autoconn, queue, str(number))
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 250)
    assert nack_many(autoconn, batch, range(0, 250, 2)) == 125
    ack(autoconn, batch)
    retry(autoconn)
    tick(autoconn, queue)
    rest = drain(autoconn, queue, consumer)
    assert sorted(int(m.payload) for m in rest) == [*range(0, 250, 2), *range(250, 300)]


# ack_part


def ack_part(conn, batch, numbers) -> int:
    return value(
        conn,
        "select pgque.ack_part(%s, %s::bigint[])",
        batch[0].batch_id,
        [batch[number].msg_id for number in numbers],
    )


@pytest.mark.parametrize("done", [[], [0], [0, 1, 2], [2], [0, 3], [0, 1, 2, 3, 4]])
def test_p6_messages_left_by_ack_part_are_redelivered_unchanged(autoconn, queue, consumer, done):
    for number in range(5):
        send(autoconn, queue, str(number))
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    assert ack_part(autoconn, batch, done) == 5 - len(done)
    retry(autoconn)
    tick(autoconn, queue)
    rest = drain(autoconn, queue, consumer)
    left = [str(number) for number in range(5) if number not in done]
    assert sorted((m.payload, m.retry_count) for m in rest) == [(number, 0) for number in left]
    assert {m.created_at for m in rest} <= {m.created_at for m in batch}


def test_p6_ack_part_works_for_overlapping_transactions(connect, autoconn, queue, consumer):
    """By id the younger transaction's event is first, in the log it is last."""
    older, younger = connect(), connect()
    older.execute("select pg_current_xact_id()")
    send(younger, queue, "first")
    younger.commit()
    send(older, queue, "second")
    older.commit()
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    assert [m.payload for m in batch] == ["first", "second"]
    assert ack_part(autoconn, batch, [0]) == 1
    retry(autoconn)
    tick(autoconn, queue)
    assert [m.payload for m in drain(autoconn, queue, consumer)] == ["second"]


def test_p9_ack_part_of_a_finished_batch_changes_nothing(autoconn, queue, consumer):
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    ack(autoconn, batch)
    with refused("PQ003", f"batch not found: {batch[0].batch_id}"):
        ack_part(autoconn, batch, [0])
    with refused("PQ003", f"batch not found: {batch[0].batch_id}"):
        autoconn.execute("select pgque.ack_or_fail(%s)", [batch[0].batch_id])
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 0


def test_p10_ack_part_refuses_a_null(autoconn, queue, consumer):
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    with refused("22023", "msg_ids must not be null"):
        call = "select pgque.ack_part(%s, array[%s, null]::bigint[])"
        autoconn.execute(call, [batch[0].batch_id, batch[0].msg_id])
    assert len(receive(autoconn, queue, consumer)) == 3


def test_p10_only_messages_of_the_batch_can_be_nacked_whatever_the_size_of_its_window(
    autoconn, queue, consumer
):
    for _ in range(4):
        value(autoconn, "select pg_current_xact_id()")
    sent = send_many(autoconn, queue, 3000)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 10)
    with refused("PQ004", f"msg_id {sent[2500]} not found"):
        nack(autoconn, batch[0]._replace(msg_id=sent[2500]))
    assert nack(autoconn, batch[3]) == 1
    ack(autoconn, batch)
    batch = receive(autoconn, queue, consumer, 10)
    with refused("PQ004", f"msg_id {sent[2]} not found"):
        nack(autoconn, batch[0]._replace(msg_id=sent[2]))
    with refused("PQ004", "event not found"):
        autoconn.execute("select pgque.event_retry(%s, %s, 0)", [batch[0].batch_id, sent[2]])
    assert nack(autoconn, batch[9]) == 1


@pytest.mark.parametrize("call", ["ack_part", "nack_many"])
def test_ids_in_a_multidimensional_array_are_accepted(autoconn, queue, consumer, call):
    """Otherwise PostgreSQL would raise an error that names neither batch nor parameter."""
    sent = send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    query = f"select pgque.{call}(%s, %s::bigint[])"
    both = value(autoconn, query, batch[0].batch_id, [[sent[0]], [sent[1]]])
    assert both == {"ack_part": 1, "nack_many": 2}[call]


@pytest.mark.parametrize("span", ["178000000 years", "-178000000 years"])
def test_an_interval_beyond_all_times_means_never_or_immediately(autoconn, queue, consumer, span):
    sent = send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0], span)
    query = "select pgque.nack_many(%s, %s, %s::interval)"
    assert value(autoconn, query, batch[0].batch_id, [sent[1]], span) == 1
    times = column(autoconn, "select ev_retry_after::text from pgque.retry_queue")
    assert times == ["-infinity" if span.startswith("-") else "infinity"] * 2
    value(autoconn, "select pgque.subscribe_subconsumer(%s, 'g', 'm')", queue)
    value(autoconn, "select pgque.next_batch_custom(%s, 'g', 'm', %s, 1, '0')", queue, span)
    value(autoconn, "select pgque.dlq_purge(%s, %s)", queue, span)
    assert receive_coop(autoconn, queue, "g", "m", 1, "178000000 years") == []
