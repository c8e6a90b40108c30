"""Seeking, and the history within which it works (sql/subscribe)."""

import pytest

from tests.fix_engine import (
    ack,
    drain,
    ids,
    payloads,
    receive,
    refused,
    rotate,
    rotate_ledger,
    send,
    send_many,
    tick,
    value,
)


def test_seek_moves_back_to_a_tick_or_a_time_and_forward_again(autoconn, queue, consumer):
    marks = []
    for n in range(4):
        send(autoconn, queue, n)
        marks.append((tick(autoconn, queue), value(autoconn, "select clock_timestamp()")))
    drain(autoconn, queue, consumer)
    for n, (tick_id, at) in enumerate(marks):
        rest = ["0", "1", "2", "3"][n + 1 :]
        for target, kind in ((tick_id, "bigint"), (at, "timestamptz")):
            call = f"select pgque.seek(%s, %s, %s::{kind})"
            assert value(autoconn, call, queue, consumer, target) == tick_id
            assert payloads(drain(autoconn, queue, consumer)) == rest
    call = "select pgque.seek(queue := %s, consumer := %s, tick_id := 1)"
    assert value(autoconn, call, queue, consumer) == 1
    future = "select pgque.seek(queue := %s, consumer := %s, at := now() + interval '1 day')"
    newest = value(autoconn, "select max(tick_id) from pgque.tick")
    assert value(autoconn, future, queue, consumer) == newest
    assert drain(autoconn, queue, consumer) == []


def test_seek_discards_the_cut_of_a_batch(autoconn, queue, consumer):
    sent = send_many(autoconn, queue, 4)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer, 2))
    value(autoconn, "select pgque.seek(%s, %s, 1)", queue, consumer)
    assert ids(drain(autoconn, queue, consumer)) == sent


def test_p10_seek_fails_while_a_batch_is_open(autoconn, queue, consumer):
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 1)
    with refused("PQ012", f"consumer {consumer} on queue {queue} holds a batch"):
        autoconn.execute("select pgque.seek(%s, %s, 1)", [queue, consumer])
    ack(autoconn, batch)
    assert value(autoconn, "select pgque.seek(%s, %s, 1)", queue, consumer) == 1


@pytest.mark.parametrize("target", [0, 3, -1, None])
def test_p10_ticks_outside_the_history_are_refused(autoconn, queue, consumer, target):
    send(autoconn, queue)
    tick(autoconn, queue)
    with refused("PQ011", f"tick not found: {'<NULL>' if target is None else target}"):
        autoconn.execute("select pgque.seek(%s, %s, %s::bigint)", [queue, consumer, target])
    with refused("PQ011", "tick not found"):
        autoconn.execute("select pgque.register_consumer_at(%s, 'new', %s)", [queue, target])
    with refused("PQ011", "tick not found"):
        autoconn.execute("select pgque.seek(%s, %s, '2000-01-01'::timestamptz)", [queue, consumer])
    assert value(autoconn, "select count(*) from pgque.subscriber") == 1


def test_register_consumer_at_delivers_events_after_the_tick(autoconn, queue):
    for n in range(3):
        send(autoconn, queue, n)
        tick(autoconn, queue)
    call = "select pgque.register_consumer_at(%s, 'c', tick_id := 2)"
    assert [value(autoconn, call, queue) for _ in range(2)] == [1, 0]
    assert payloads(drain(autoconn, queue, "c")) == ["1", "2"]


def test_p1_history_ends_at_the_last_truncation(autoconn, queue, consumer):
    for n in range(9):
        send(autoconn, queue, n)
        drain(autoconn, queue, consumer)
        assert rotate(autoconn, queue) == 1
    history = value(autoconn, "select queue_history_tick from pgque.queue")
    assert value(autoconn, "select pgque.seek(%s, %s, %s)", queue, consumer, history) == history
    kept = payloads(drain(autoconn, queue, consumer))
    assert kept == ["7", "8"]
    with refused("PQ011", f"tick not found: {history - 1}"):
        autoconn.execute("select pgque.seek(%s, %s, %s)", [queue, consumer, history - 1])
    assert rotate_ledger(autoconn)
    value(autoconn, "select pgque.seek(%s, %s, %s)", queue, consumer, history)
    assert payloads(drain(autoconn, queue, consumer)) == kept


def test_p10_a_consumer_name_too_long_for_an_index_is_refused(autoconn, queue):
    with refused("22023", "consumer name too long: 2001 bytes (max 2000)"):
        value(autoconn, "select pgque.subscribe(%s, repeat('x', 2001))", queue)
    with refused("22023", "consumer name too long"):
        value(autoconn, "select pgque.register_subconsumer(%s, 'g', repeat('x', 2000))", queue)
    long_name = "".join(chr(33 + n * 7919 % 90) for n in range(2000))
    assert value(autoconn, "select pgque.subscribe(%s, %s)", queue, long_name) == 1
