"""How long the oldest event has been waiting (sql/wait), the figure for alerts."""

import psycopg
import pytest

from tests.fix_engine import (
    ack,
    column,
    configure,
    log_of,
    nack,
    receive,
    receive_coop,
    send,
    send_many,
    subscribe,
    tick,
    value,
)

HOUR = 3600


def ages(conn: psycopg.Connection, queue: str, consumer: str) -> tuple[float, float]:
    row = conn.execute(
        "select extract(epoch from waiting)::float8, extract(epoch from ready)::float8 "
        "from pgque.get_consumer_wait(%s, %s)",
        [queue, consumer],
    ).fetchone()
    assert row is not None
    return row


def unticked(conn: psycopg.Connection, queue: str) -> tuple[int, float]:
    row = conn.execute(
        "select ev_new, extract(epoch from waiting)::float8 from pgque.get_queue_wait(%s)", [queue]
    ).fetchone()
    assert row is not None
    return row


def an_hour_passes(conn: psycopg.Connection, queue: str) -> None:
    """Make everything in the queue an hour older."""
    for table, column_ in (("tick", "tick_time"), (log_of(conn, queue)[6:], "ev_time")):
        conn.execute(f"update pgque.{table} set {column_} = {column_} - interval '1 hour'".encode())


def test_a_new_event_after_a_quiet_hour_has_not_waited_for_an_hour(autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer))
    assert ages(autoconn, queue, consumer) == (0, 0)
    an_hour_passes(autoconn, queue)
    assert ages(autoconn, queue, consumer) == (0, 0)
    send(autoconn, queue)
    waiting, ready = ages(autoconn, queue, consumer)
    assert 0 < waiting < 60
    assert ready == 0
    assert 0 < unticked(autoconn, queue)[1] < 60
    tick(autoconn, queue)
    assert unticked(autoconn, queue) == (0, 0)
    waiting, ready = ages(autoconn, queue, consumer)
    assert 0 < ready <= waiting < 60
    held = receive(autoconn, queue, consumer)
    assert 0 < ages(autoconn, queue, consumer)[1] < 60
    lag = "select lag > interval '1 hour' from pgque.get_consumer_info(%s, %s)"
    assert value(autoconn, lag, queue, consumer), "lag is still the age of the position"
    ack(autoconn, held)
    assert ages(autoconn, queue, consumer) == (0, 0)


def test_an_event_not_consumed_for_an_hour_has_waited_for_an_hour(autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    an_hour_passes(autoconn, queue)
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    assert min(ages(autoconn, queue, consumer)) >= HOUR
    held = receive(autoconn, queue, consumer)
    assert min(ages(autoconn, queue, consumer)) >= HOUR
    ack(autoconn, held)
    assert max(ages(autoconn, queue, consumer)) < 60
    part = receive(autoconn, queue, consumer, 4)
    an_hour_passes(autoconn, queue)
    ack(autoconn, part)
    assert min(ages(autoconn, queue, consumer)) >= HOUR, "the rest of the window has waited"


def test_unticked_events_do_not_count_as_ready(autoconn, queue, consumer):
    send(autoconn, queue)
    an_hour_passes(autoconn, queue)
    send(autoconn, queue)
    count, waited = unticked(autoconn, queue)
    assert count == 2
    assert waited >= HOUR
    waiting, ready = ages(autoconn, queue, consumer)
    assert waiting >= HOUR
    assert ready == 0


def test_an_open_or_rolled_back_send_does_not_count_as_waiting(autoconn, connect, queue, consumer):
    an_hour_passes(autoconn, queue)
    with connect() as slow:
        send(slow, queue)
        assert unticked(autoconn, queue) == (1, 0)
        assert ages(autoconn, queue, consumer) == (0, 0)
        slow.rollback()
    assert unticked(autoconn, queue) == (1, 0)


def test_an_exclusively_locked_log_does_not_block_the_query(autoconn, connect, queue, consumer):
    send(autoconn, queue)
    an_hour_passes(autoconn, queue)
    other = connect()
    other.execute(f"lock table {log_of(autoconn, queue)} in access exclusive mode".encode())
    assert unticked(autoconn, queue) == (1, 0)
    other.rollback()
    assert unticked(autoconn, queue)[1] >= HOUR


def test_a_retry_counts_from_the_tick_that_includes_it(autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0], "0 seconds")
    ack(autoconn, batch)
    an_hour_passes(autoconn, queue)
    assert ages(autoconn, queue, consumer) == (0, 0)
    autoconn.execute("select pgque.maint_retry_events()")
    tick(autoconn, queue)
    waiting, ready = ages(autoconn, queue, consumer)
    assert 0 < ready <= waiting < 60


def test_the_wait_of_a_member_is_that_of_its_batch(autoconn, queue):
    value(autoconn, "select pgque.register_subconsumer(%s, 'g', 'a')", queue)
    send_many(autoconn, queue, 4)
    tick(autoconn, queue)
    assert ages(autoconn, queue, "g.a") == (0, 0)
    receive_coop(autoconn, queue, "g", "a", 3)
    an_hour_passes(autoconn, queue)
    assert min(*ages(autoconn, queue, "g"), *ages(autoconn, queue, "g.a")) >= HOUR


def test_waits_can_be_filtered_by_queue_and_consumer(autoconn, queue, consumer):
    value(autoconn, "select pgque.create_queue('a queue')")
    subscribe(autoconn, "a queue", consumer, "another")
    assert column(autoconn, "select queue_name from pgque.get_queue_wait()") == ["a queue", queue]
    everything = [("a queue", "another"), ("a queue", consumer), (queue, consumer)]
    for call, expected in (
        ("()", everything),
        ("('a queue')", everything[:2]),
        (f"(consumer := '{consumer}')", everything[1:]),
        (f"('{queue}', '{consumer}')", everything[2:]),
    ):
        names = f"select queue_name, consumer_name from pgque.get_consumer_wait{call}"
        assert autoconn.execute(names.encode()).fetchall() == expected
    for call, state in (
        ("get_queue_wait('missing')", "PQ001"),
        ("get_consumer_wait('missing')", "PQ001"),
        (f"get_consumer_wait('{queue}', 'another')", "PQ002"),
    ):
        with pytest.raises(psycopg.Error) as caught:
            autoconn.execute(f"select pgque.{call}".encode())
        assert caught.value.sqlstate == state


def test_p5_a_broken_queue_does_not_hide_the_others(autoconn, queue, consumer):
    value(autoconn, "select pgque.create_queue('bad')")
    subscribe(autoconn, "bad", consumer)
    autoconn.execute("drop sequence pgque.event_2_id_seq")
    assert column(autoconn, "select ev_new from pgque.get_queue_wait()") == [None, 0]
    pending = "select pending_events from pgque.get_consumer_wait()"
    assert column(autoconn, pending) == [None, 0]


def test_p7_the_query_reads_one_of_the_waiting_events(autoconn, queue, consumer):
    def pages() -> int:
        query = "explain (analyze, buffers, format json) select * from pgque.get_queue_wait()"
        return value(autoconn, query)[0]["Plan"]["Shared Hit Blocks"]

    configure(autoconn, queue, ticker_paused="true")
    send(autoconn, queue)
    an_hour_passes(autoconn, queue)
    pages()
    before = pages()
    for _ in range(5):
        send_many(autoconn, queue, 2000)
    autoconn.execute("analyze")
    pages()
    assert pages() <= before + 20
