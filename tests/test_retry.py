"""Nack and the way back into the log (sql/07_retry.sql)."""

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
    payloads,
    receive,
    receive_coop,
    refused,
    rotate,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)
from tests.running import eventually


def retry(conn) -> int:
    return value(conn, "select pgque.maint_retry_events()")


def open_batch(conn, queue, consumer, count=1):
    """Send so many, tick, receive all of them."""
    sent = send_many(conn, queue, count)
    tick(conn, queue)
    batch = receive(conn, queue, consumer, count + 1)
    assert ids(batch) == sent
    return batch


def test_a_nacked_message_comes_back_to_its_consumer_alone(autoconn, queue, consumer):
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


def test_a_message_keeps_id_time_type_payload_and_extra_fields(autoconn, queue, consumer):
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


def test_p10_nack_trusts_the_id_alone(autoconn, queue, consumer):
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
def test_it_does_not_come_back_before_retry_after(autoconn, queue, consumer, retry_after):
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


def test_called_by_name_with_its_defaults(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    call = "select pgque.nack(msg := m, batch_id := m.batch_id) from pgque.receive(%s, %s) as m"
    assert value(autoconn, call, queue, consumer) == 1
    wait = (
        "select ev_retry_after - clock_timestamp() between '50 s' and '60 s' from pgque.retry_queue"
    )
    assert value(autoconn, wait)
    assert ack(autoconn, message.batch_id) == 1


def test_a_negative_interval_means_at_once(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    nack(autoconn, message, "-1 day")
    assert retry(autoconn) == 1


def test_an_event_waits_once_however_often_it_is_nacked(autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    assert [nack(autoconn, message) for _ in range(3)] == [1, 1, 1]
    ack(autoconn, message.batch_id)
    assert retry(autoconn) == 1
    [again] = drain(autoconn, queue, consumer)
    assert again.retry_count == 1


def test_p3_what_was_not_nacked_does_not_come_back(autoconn, queue, consumer):
    batch = open_batch(autoconn, queue, consumer, 10)
    for message in batch[::3]:
        nack(autoconn, message)
    ack(autoconn, batch)
    retry(autoconn)
    assert ids(drain(autoconn, queue, consumer)) == ids(batch[::3])


def test_a_nack_in_a_rolled_back_transaction_did_not_happen(conn, autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    nack(conn, message)
    conn.rollback()
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 0
    ack(autoconn, message.batch_id)
    assert drain(autoconn, queue, consumer) == []


def test_p10_a_message_that_is_not_in_the_batch_is_named(autoconn, queue, consumer):
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


def test_at_max_retries_it_is_a_dead_letter_once(autoconn, queue, consumer):
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


def test_max_retries_0_makes_the_first_nack_the_last(autoconn, queue, consumer):
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


# PgQ's calls


def test_event_retry_comes_back_at_a_time_or_after_seconds_however_often_it_was_tried(
    autoconn, queue, consumer
):
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


def test_batch_retry_takes_the_whole_batch_but_what_waits_already(autoconn, queue, consumer):
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


def test_batch_retry_of_a_piece_takes_the_piece(autoconn, queue, consumer):
    open_batch(autoconn, queue, consumer, 5)
    piece = receive(autoconn, queue, consumer, 2)
    assert value(autoconn, "select pgque.batch_retry(%s, 0)", piece[0].batch_id) == 2
    ack(autoconn, piece)
    retry(autoconn)
    assert sorted(ids(drain(autoconn, queue, consumer))) == [1, 2, 3, 4, 5]


# Back into the log


def test_p4_redeliveries_come_in_order_among_new_events(autoconn, queue, consumer):
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
def test_p6_redeliveries_of_several_transactions_cut_in_pieces(
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


def test_p6_a_redelivery_stands_before_its_window_was_cut(autoconn, queue, consumer):
    """It has an old id: the place where a batch was cut must not pass over the next window's."""
    [old] = open_batch(autoconn, queue, consumer)
    nack(autoconn, old)
    ack(autoconn, old.batch_id)
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer, 2))
    retry(autoconn)
    assert [m.retry_count for m in drain(autoconn, queue, consumer, 2)] == [0, 1]


def test_p1_retries_of_a_maintenance_that_commits_late_are_delivered(
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


def test_more_retries_than_one_statement_takes_are_drained(autoconn, queue, consumer):
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


def test_p5_a_queue_that_cannot_take_its_retries_does_not_stop_the_others(
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


def test_p5_a_nack_waits_for_the_other_process_of_its_name(connect, autoconn, queue, consumer):
    [message] = open_batch(autoconn, queue, consumer)
    first, second = connect(), connect(autocommit=True)
    assert receive(first, queue, consumer) == [message]
    ack(first, message.batch_id)
    waiting = Thread(lambda: nack(second, message))
    eventually(lambda: is_blocked(autoconn, second))
    first.commit()
    with refused("PQ003", f"batch not found: {message.batch_id}"):
        waiting.outcome()


# Many at once


def nack_many(conn, batch, numbers, reasons=None, retry_after="0") -> int:
    return value(
        conn,
        "select pgque.nack_many(%s, %s::bigint[], %s::interval, %s::text[])",
        batch[0].batch_id,
        [batch[number].msg_id for number in numbers],
        retry_after,
        reasons,
    )


def test_nack_many_refuses_each_message_as_nack_does(autoconn, queue, consumer):
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


def test_p10_nack_many_refuses_all_or_none(autoconn, queue, consumer):
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


def test_p7_nack_many_of_a_batch_that_many_transactions_sent(autoconn, queue, consumer):
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


# A part of a batch


def ack_part(conn, batch, numbers) -> int:
    return value(
        conn,
        "select pgque.ack_part(%s, %s::bigint[])",
        batch[0].batch_id,
        [batch[number].msg_id for number in numbers],
    )


@pytest.mark.parametrize("done", [[], [0], [0, 1, 2], [2], [0, 3], [0, 1, 2, 3, 4]])
def test_p6_what_ack_part_leaves_comes_again_as_it_was(autoconn, queue, consumer, done):
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


def test_p6_a_batch_whose_transactions_overlap_is_left_in_part(connect, autoconn, queue, consumer):
    """By id the younger transaction's event comes first, in the log it comes last."""
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


def test_p9_ack_part_of_a_batch_that_is_done_changes_nothing(autoconn, queue, consumer):
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


def test_p10_only_messages_of_the_batch_can_be_nacked_however_large_the_window(
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
def test_ids_in_an_array_of_several_dimensions_are_ids_all_the_same(
    autoconn, queue, consumer, call
):
    """Not an error of PostgreSQL's that names neither batch nor parameter."""
    sent = send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    query = f"select pgque.{call}(%s, %s::bigint[])"
    both = value(autoconn, query, batch[0].batch_id, [[sent[0]], [sent[1]]])
    assert both == {"ack_part": 1, "nack_many": 2}[call]


@pytest.mark.parametrize("span", ["178000000 years", "-178000000 years"])
def test_an_interval_beyond_all_times_means_never_or_at_once(autoconn, queue, consumer, span):
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
