"""Subscribing, receiving, acking and seeking (sql/receive, sql/subscribe)."""

import pytest

from tests.fix_engine import (
    Thread,
    ack,
    drain,
    ids,
    is_blocked,
    nack,
    notices,
    payloads,
    receive,
    refused,
    rotate,
    send,
    send_many,
    subscribe,
    tick,
    value,
)
from tests.running import eventually

# Subscriptions


def test_subscribe_returns_1_or_0_if_nothing_changed(autoconn, queue):
    for on, off in (("subscribe", "unsubscribe"), ("register_consumer", "unregister_consumer")):
        calls = [on, on, off, off]
        results = [value(autoconn, f"select pgque.{call}(%s, 'c')", queue) for call in calls]
        assert results == [1, 0, 1, 0]
        by_name = [f"select pgque.{call}(consumer := 'c', queue := %s)" for call in calls]
        assert [value(autoconn, call, queue) for call in by_name] == [1, 0, 1, 0]


@pytest.mark.parametrize("name", ["", None])
def test_p10_an_empty_consumer_name_is_refused(autoconn, queue, name):
    with refused("22023", "consumer name must not be empty"):
        autoconn.execute("select pgque.subscribe(%s, %s)", [queue, name])


def test_a_subscription_starts_at_the_newest_tick(autoconn, queue):
    send(autoconn, queue, "ticked")
    tick(autoconn, queue)
    send(autoconn, queue, "not ticked yet")
    subscribe(autoconn, queue, "c")
    send(autoconn, queue, "sent later")
    assert payloads(drain(autoconn, queue, "c")) == ["not ticked yet", "sent later"]


def test_p1_an_event_sent_after_an_open_subscription_survives_rotations(connect, autoconn, queue):
    send(autoconn, queue, "before")
    tick(autoconn, queue)
    assert rotate(autoconn, queue) == 1
    subscribing = connect()
    value(subscribing, "select pgque.subscribe(%s, 'c')", queue)
    send(autoconn, queue, "sent meanwhile")
    tick(autoconn, queue)
    assert [rotate(autoconn, queue) for _ in range(4)] == [0] * 4
    subscribing.commit()
    assert payloads(drain(autoconn, queue, "c")) == ["sent meanwhile"]


def test_one_consumer_name_on_two_queues_is_two_subscriptions(autoconn, queue, consumer):
    value(autoconn, "select pgque.create_queue('other')")
    subscribe(autoconn, "other", consumer)
    send(autoconn, queue, "here")
    send(autoconn, "other", "there")
    assert payloads(drain(autoconn, queue, consumer)) == ["here"]
    assert payloads(drain(autoconn, "other", consumer)) == ["there"]
    assert value(autoconn, "select pgque.unsubscribe('other', %s)", consumer) == 1
    send(autoconn, queue, "still")
    assert payloads(drain(autoconn, queue, consumer)) == ["still"]


def test_a_consumer_that_subscribes_again_starts_afresh(autoconn, queue, consumer):
    send(autoconn, queue, "old")
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0])
    value(autoconn, "select pgque.unsubscribe(%s, %s)", queue, consumer)
    assert ack(autoconn, batch) == 0
    subscribe(autoconn, queue, consumer)
    value(autoconn, "select pgque.maint_retry_events()")
    send(autoconn, queue, "new")
    assert payloads(drain(autoconn, queue, consumer)) == ["new"]


NAMED = [
    "pgque.receive(%s, %s)",
    "pgque.receive_merged(%s, %s)",
    "pgque.next_batch(%s, %s)",
    "pgque.next_batch_info(%s, %s)",
    "pgque.next_batch_custom(%s, %s, null, null, null)",
    "pgque.seek(%s, %s, 1)",
    "pgque.seek(%s, %s, now())",
    "pgque.get_consumer_info(%s, %s)",
]


@pytest.mark.parametrize("call", NAMED)
def test_p10_every_call_names_the_missing_consumer(shared, shared_queue, call):
    parameters = [shared_queue, "nobody"]
    for text in ("consumer not registered", f"Not subscriber to queue: {shared_queue}/nobody"):
        with refused("PQ002", text):
            shared.execute(f"select {call}".encode(), parameters)


# Receiving


def test_an_empty_result_means_that_nothing_is_ready(autoconn, queue, consumer):
    assert receive(autoconn, queue, consumer) == []
    send(autoconn, queue)
    assert receive(autoconn, queue, consumer) == []
    tick(autoconn, queue)
    assert len(receive(autoconn, queue, consumer)) == 1


def test_receive_returns_the_open_batch_again_until_it_is_acked(autoconn, queue, consumer):
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    first = receive(autoconn, queue, consumer)
    send(autoconn, queue, "next window")
    tick(autoconn, queue)
    assert receive(autoconn, queue, consumer) == first
    assert receive(autoconn, queue, consumer, merged=True) == first
    assert ack(autoconn, first) == 1
    second = receive(autoconn, queue, consumer)
    assert payloads(second) == ["next window"]
    assert second[0].batch_id > first[0].batch_id


def test_receive_stays_in_one_window_and_receive_merged_takes_several(autoconn, queue, consumer):
    subscribe(autoconn, queue, "merger")
    for n in range(4):
        send(autoconn, queue, n)
        tick(autoconn, queue)
    assert payloads(receive(autoconn, queue, consumer)) == ["0"]
    assert payloads(receive(autoconn, queue, "merger", merged=True)) == ["0", "1", "2", "3"]


def test_receive_accepts_named_arguments_and_defaults_to_100(autoconn, queue, consumer):
    send_many(autoconn, queue, 150)
    tick(autoconn, queue)
    for function in ("receive", "receive_merged"):
        default = f"select pgque.{function}(queue := %s, consumer := %s)"
        assert len(autoconn.execute(default.encode(), [queue, consumer]).fetchall()) == 100
    named = "select pgque.receive(max_return := 120, queue := %s, consumer := %s)"
    assert len(autoconn.execute(named, [queue, consumer]).fetchall()) == 120


@pytest.mark.parametrize("max_return", [0, -1, None])
def test_p10_max_return_must_be_1_or_more(autoconn, queue, consumer, max_return):
    send(autoconn, queue)
    tick(autoconn, queue)
    for function in ("receive", "receive_merged"):
        with refused("22023", "max_return must be >= 1"):
            autoconn.execute(
                f"select pgque.{function}(%s, %s, %s::int)".encode(), [queue, consumer, max_return]
            )
    with refused("22023", "max_return must be >= 1"):
        autoconn.execute("select pgque.receive_coop(%s, 'g', 'm', %s::int)", [queue, max_return])
    assert value(autoconn, "select count(*) from pgque.subscriber") == 1


def test_the_columns_of_message_have_a_fixed_order_for_other_languages(autoconn):
    columns = autoconn.execute(
        "select attname, format_type(atttypid, null) from pg_attribute "
        "where attrelid = 'pgque.message'::regclass order by attnum"
    ).fetchall()
    assert columns == [
        ("msg_id", "bigint"),
        ("batch_id", "bigint"),
        ("type", "text"),
        ("payload", "text"),
        ("retry_count", "integer"),
        ("created_at", "timestamp with time zone"),
        ("extra1", "text"),
        ("extra2", "text"),
        ("extra3", "text"),
        ("extra4", "text"),
    ]


def test_windows_without_events_are_finished_inside_the_call(autoconn, queue, consumer):
    for _ in range(20):
        value(autoconn, "select pgque.force_next_tick(%s)", queue)
        tick(autoconn, queue)
    send(autoconn, queue, "at last")
    newest = tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    assert payloads(batch) == ["at last"]
    ack(autoconn, batch)
    stands = "select sub_last_tick from pgque.subscription"
    assert value(autoconn, stands) == newest
    for _ in range(3):
        value(autoconn, "select pgque.force_next_tick(%s)", queue)
        newest = tick(autoconn, queue)
    assert receive(autoconn, queue, consumer) == []
    assert value(autoconn, stands) == newest


# Acking


def test_p6_a_hundred_events_can_be_received_and_acked_one_at_a_time(autoconn, queue, consumer):
    sent = send_many(autoconn, queue, 100)
    tick(autoconn, queue)
    got = []
    for _ in range(100):
        [message] = batch = receive(autoconn, queue, consumer, 1)
        got.append(message.msg_id)
        assert ack(autoconn, batch) == 1
    assert got == sent
    assert receive(autoconn, queue, consumer, 1) == []


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 100])
def test_p6_pieces_of_any_size_deliver_every_event_once_and_in_order(
    autoconn, queue, consumer, size, merged
):
    sent = []
    for count in (5, 1, 14):
        sent += send_many(autoconn, queue, count)
        tick(autoconn, queue)
    assert ids(drain(autoconn, queue, consumer, size, merged=merged)) == sent


def test_p3_p6_receiving_again_with_another_limit_makes_another_batch(autoconn, queue, consumer):
    """Otherwise an ack could cover events that its receiver never saw, or miss handled ones."""
    sent = send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    small = receive(autoconn, queue, consumer, 2)
    large = receive(autoconn, queue, consumer, 5)
    assert ids(large) == sent[:5]
    assert ack(autoconn, small) == 0
    assert ids(receive(autoconn, queue, consumer, 5)) == sent[:5]
    smaller = receive(autoconn, queue, consumer, 3)
    assert ids(smaller) == sent[:3]
    assert ack(autoconn, large) == 0
    assert ack(autoconn, smaller) == 1
    rest = receive(autoconn, queue, consumer, 100)
    assert ids(rest) == sent[3:]
    assert receive(autoconn, queue, consumer, 100) == rest
    assert ack(autoconn, rest) == 1


def test_p9_an_ack_of_a_finished_batch_returns_0_with_a_warning(autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    heard = notices(autoconn)
    assert [ack(autoconn, batch), ack(autoconn, batch)] == [1, 0]
    assert value(autoconn, "select pgque.finish_batch(%s)", batch[0].batch_id) == 0
    assert value(autoconn, "select pgque.ack(null)") == 0
    assert value(autoconn, "select pgque.ack(batch_id := 999999)") == 0
    warning = f"WARNING: batch {batch[0].batch_id} is not open"
    assert [text.startswith(warning) for text in heard] == [True, True, False, False]
    assert len(heard) == 4


def test_p3_work_in_the_transaction_of_the_ack_commits_with_it_or_not_at_all(
    conn, autoconn, queue, consumer
):
    autoconn.execute("create table done (msg_id bigint)")
    sent = send_many(autoconn, queue, 5)
    tick(autoconn, queue)
    for attempt in range(3):
        batch = receive(conn, queue, consumer)
        for message in batch:
            conn.execute("insert into done values (%s)", [message.msg_id])
        assert ack(conn, batch) == 1
        if attempt < 2:
            conn.rollback()
    conn.commit()
    assert receive(autoconn, queue, consumer) == []
    assert [row[0] for row in autoconn.execute("select * from done")] == sent


def test_p3_rolling_back_to_a_savepoint_undoes_an_ack(conn, autoconn, queue, consumer):
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    batch = receive(conn, queue, consumer, 1)
    conn.execute("savepoint s")
    assert ack(conn, batch) == 1
    assert payloads(receive(conn, queue, consumer, 1)) == ["2"]
    conn.execute("rollback to savepoint s")
    assert receive(conn, queue, consumer, 1) == batch
    assert ack(conn, batch) == 1
    conn.commit()
    assert payloads(drain(autoconn, queue, consumer)) == ["2"]


def test_one_transaction_can_receive_and_ack_many_batches(conn, autoconn, queue, consumer):
    sent = send_many(autoconn, queue, 30)
    tick(autoconn, queue)
    got = []
    while batch := receive(conn, queue, consumer, 7):
        got += ids(batch)
        ack(conn, batch)
    conn.commit()
    assert got == sent
    assert receive(autoconn, queue, consumer) == []


# Two processes with one consumer name


def test_p5_receive_waits_for_another_process_of_the_same_consumer(
    connect, autoconn, queue, consumer
):
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    first, second = connect(), connect(autocommit=True)
    batch = receive(first, queue, consumer, 1)
    waiting = Thread(lambda: receive(second, queue, consumer, 1))
    eventually(lambda: is_blocked(autoconn, second))
    ack(first, batch)
    first.commit()
    assert payloads(waiting.outcome()) == ["2"]


def test_p5_after_a_rollback_the_waiting_process_gets_the_same_batch(
    connect, autoconn, queue, consumer
):
    send(autoconn, queue)
    tick(autoconn, queue)
    first, second = connect(), connect(autocommit=True)
    batch = receive(first, queue, consumer)
    waiting = Thread(lambda: receive(second, queue, consumer))
    eventually(lambda: is_blocked(autoconn, second))
    first.rollback()
    assert ids(waiting.outcome()) == ids(batch)


def test_p5_receive_merged_fails_at_once_while_the_other_process_works(
    connect, autoconn, queue, consumer
):
    send(autoconn, queue)
    tick(autoconn, queue)
    first = connect()
    batch = receive(first, queue, consumer, merged=True)
    with refused("55P03", "could not obtain lock"):
        receive(autoconn, queue, consumer, merged=True)
    ack(first, batch)
    first.commit()
    assert receive(autoconn, queue, consumer, merged=True) == []


def test_p5_an_empty_receive_takes_no_lock(connect, autoconn, queue, consumer):
    holder = connect()
    holder.execute("select from pgque.subscriber for update")
    autoconn.execute("set lock_timeout = '1s'")
    assert receive(autoconn, queue, consumer) == []
    assert receive(autoconn, queue, consumer, merged=True) == []
    assert value(autoconn, "select pgque.next_batch(%s, %s)", queue, consumer) is None


def test_p5_consumers_with_other_names_do_not_wait(connect, autoconn, queue, consumer):
    subscribe(autoconn, queue, "other")
    send(autoconn, queue)
    tick(autoconn, queue)
    holder = connect()
    receive(holder, queue, consumer)
    autoconn.execute("set lock_timeout = '1s'")
    assert len(drain(autoconn, queue, "other")) == 1
