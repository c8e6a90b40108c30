"""Figures that leave out retries, and rates that count handled events."""

import psycopg
import pytest

from pgque.install import install
from pgque.metrics import Reader
from pgque.watching.live import Live
from tests.fix_engine import (
    ack,
    configure,
    drain,
    nack,
    receive,
    receive_coop,
    send,
    send_many,
    subscribe,
    tick,
    value,
)


def put_back(conn: psycopg.Connection, queue: str) -> None:
    conn.execute("select pgque.maint_retry_events()")
    tick(conn, queue)


def refuse(conn: psycopg.Connection, queue: str, consumer: str, times: int) -> None:
    """Nack the next message `times` times; maintenance puts it back after each nack."""
    for _ in range(times):
        batch = receive(conn, queue, consumer)
        nack(conn, batch[0], "0 seconds")
        ack(conn, batch)
        put_back(conn, queue)


def pending(conn: psycopg.Connection, queue: str, consumer: str) -> int:
    query = "select pending_events from pgque.get_consumer_info(%s, %s)"
    found = value(conn, query, queue, consumer)
    query = query.replace("info", "wait")
    assert value(conn, query, queue, consumer) == found
    return found


def sent(conn: psycopg.Connection, queue: str) -> int:
    return {row[0]: row[1] for row in Reader(conn).queues()}[queue]


def handled(conn: psycopg.Connection, queue: str, consumer: str) -> int:
    return value(conn, "select handled from pgque.get_consumer_wait(%s, %s)", queue, consumer)


def test_an_event_nacked_five_times_counts_as_sent_once(autoconn, queue, consumer):
    subscribe(autoconn, queue, "other")
    send(autoconn, queue)
    tick(autoconn, queue)
    refuse(autoconn, queue, consumer, 5)
    assert sent(autoconn, queue) == 1
    assert pending(autoconn, queue, "other") == 1, "one event is new to it"
    assert pending(autoconn, queue, consumer) == 1, "one event is redelivered"
    assert len(drain(autoconn, queue, "other")) == 1
    assert pending(autoconn, queue, "other") == 0
    drain(autoconn, queue, consumer)
    assert pending(autoconn, queue, consumer) == 0
    assert value(autoconn, "select ev_new from pgque.get_queue_info(%s)", queue) == 0
    assert sent(autoconn, queue) == 1


def test_retries_put_back_before_a_tick_are_pending_only_for_their_owner(autoconn, queue, consumer):
    subscribe(autoconn, queue, "other")
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    drain(autoconn, queue, "other")
    batch = receive(autoconn, queue, consumer)
    for message in batch:
        nack(autoconn, message, "0 seconds")
    ack(autoconn, batch)
    autoconn.execute("select pgque.maint_retry_events()")
    assert pending(autoconn, queue, consumer) == 3
    assert pending(autoconn, queue, "other") == 0
    assert sent(autoconn, queue) == 3
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    assert pending(autoconn, queue, consumer) == 5
    assert pending(autoconn, queue, "other") == 2
    part = receive(autoconn, queue, consumer, 2)
    assert pending(autoconn, queue, consumer) == 5, "two of the five are in its open batch"
    ack(autoconn, part)
    assert 3 <= pending(autoconn, queue, consumer) <= 5, "the figure is a lower bound"


def test_the_rate_of_a_queue_leaves_out_retries(autoconn, queue, consumer):
    autoconn.execute("update pgque.tick set tick_time = tick_time - interval '2 minutes'")
    send_many(autoconn, queue, 60)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    for message in batch:
        nack(autoconn, message, "0 seconds")
    ack(autoconn, batch)
    put_back(autoconn, queue)
    assert value(autoconn, "select ev_per_sec from pgque.get_queue_info(%s)", queue) == 1


def test_a_members_pending_events_are_those_of_its_batch(autoconn, queue):
    value(autoconn, "select pgque.register_subconsumer(%s, 'g', 'a')", queue)
    value(autoconn, "select pgque.register_subconsumer(%s, 'g', 'b')", queue)
    assert pending(autoconn, queue, "g.a") == 0
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    held = receive_coop(autoconn, queue, "g", "a", 1)
    send_many(autoconn, queue, 90)
    tick(autoconn, queue)
    assert pending(autoconn, queue, "g.a") == 1
    assert pending(autoconn, queue, "g.b") == 0
    assert pending(autoconn, queue, "g") == 99, "those that no member holds"
    ack(autoconn, held)
    assert pending(autoconn, queue, "g.a") == 0
    whole = receive_coop(autoconn, queue, "g", "b", 100)
    assert pending(autoconn, queue, "g.b") == len(whole) == 9


def test_handled_counts_neither_seeks_nor_undelivered_events(autoconn, queue, consumer):
    assert handled(autoconn, queue, consumer) == 0
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    assert handled(autoconn, queue, consumer) == 0
    ack(autoconn, receive(autoconn, queue, consumer, 4))
    assert handled(autoconn, queue, consumer) == 4
    drain(autoconn, queue, consumer)
    assert handled(autoconn, queue, consumer) == 10
    value(autoconn, "select pgque.seek(%s, %s, 1)", queue, consumer)
    assert handled(autoconn, queue, consumer) == 10, "a seek back counts nothing"
    newest = value(autoconn, "select last_tick_id from pgque.get_queue_info(%s)", queue)
    value(autoconn, "select pgque.seek(%s, %s, %s)", queue, consumer, newest)
    assert handled(autoconn, queue, consumer) == 10, "a seek forward counts nothing"
    subscribe(autoconn, queue, "late")
    assert handled(autoconn, queue, "late") == 0


def test_a_group_has_handled_the_events_its_members_acked(autoconn, queue):
    value(autoconn, "select pgque.register_subconsumer(%s, 'g', 'a')", queue)
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    held = receive_coop(autoconn, queue, "g", "a", 6)
    assert handled(autoconn, queue, "g") == 0
    ack(autoconn, held)
    assert handled(autoconn, queue, "g") == 6


@pytest.mark.parametrize("seek", [False, True])
def test_a_consumer_without_a_process_has_no_rate(autoconn, queue, consumer, seek):
    live = Live(autoconn)
    live.look()
    for _ in range(5):
        send_many(autoconn, queue, 20)
        tick(autoconn, queue)
        if seek:
            newest = value(autoconn, "select max(tick_id) from pgque.tick")
            value(autoconn, "select pgque.seek(%s, %s, %s)", queue, consumer, newest)
        [now] = live.look().consumers
        assert now.rate == 0
    drain(autoconn, queue, consumer)
    send(autoconn, queue)
    tick(autoconn, queue)
    drain(autoconn, queue, consumer)
    [now] = live.look().consumers
    assert now.rate > 0


def test_events_sent_during_a_sample_do_not_count_as_handled(
    autoconn, queue, consumer, monkeypatch
):
    ask = Reader.consumers

    def after_a_burst(reader: Reader):
        send_many(autoconn, queue, 20)
        return ask(reader)

    live = Live(autoconn)
    monkeypatch.setattr(Reader, "consumers", after_a_burst)
    live.look()
    monkeypatch.undo()
    [now] = live.look().consumers
    assert now.rate == 0


def test_p7_figures_cost_the_same_regardless_of_the_number_of_retries(autoconn, queue, consumer):
    def pages() -> int:
        query = "explain (analyze, buffers, format json) select * from pgque.get_consumer_wait()"
        return value(autoconn, query)[0]["Plan"]["Shared Hit Blocks"]

    subscribe(autoconn, queue, "behind")
    send(autoconn, queue)
    tick(autoconn, queue)
    configure(autoconn, queue, max_retries=1000)
    refuse(autoconn, queue, consumer, 5)
    pages()
    before = pages()
    refuse(autoconn, queue, consumer, 40)
    pages()
    assert pages() <= before + 20


def test_an_older_schema_gets_the_counters_without_losing_a_figure(autoconn, dsn, queue, consumer):
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer, 1))
    autoconn.execute(
        "alter table pgque.cursor drop column cur_takeovers cascade, "
        "drop column cur_skipped cascade;"
        "alter table pgque.tick drop column tick_put_back;"
        "drop sequence pgque.event_1_put_back;"
        "drop function pgque.get_queue_wait; drop function pgque._queue_wait;"
        "create function pgque.get_queue_wait(queue text default null) "
        "returns table (queue_name text, ev_new bigint, waiting interval) "
        "language sql as 'select null::text, null::bigint, null::interval'"
    )
    install(dsn)
    install(dsn)
    assert pending(autoconn, queue, consumer) == 2
    assert sent(autoconn, queue) == 3
    refuse(autoconn, queue, consumer, 2)
    assert sent(autoconn, queue) == 3
    assert pending(autoconn, queue, consumer) == len(drain(autoconn, queue, consumer)) == 1
