"""When a tick is due, which events it includes, and its notification (sql/tick, sql/snapshot)."""

import psycopg
import pytest

from tests.fix_engine import (
    Thread,
    configure,
    drain,
    ids,
    is_blocked,
    notices,
    payloads,
    receive,
    refused,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)
from tests.running import PATIENCE, eventually


def ticks(conn, queue) -> int:
    return value(
        conn,
        "select count(*) from pgque.tick join pgque.queue on queue_id = tick_queue "
        "where queue_name = %s",
        queue,
    )


def tick_all(conn) -> int:
    return value(conn, "select pgque.ticker()")


# When a tick is due


def test_an_idle_queue_is_not_ticked(autoconn, queue):
    assert [tick(autoconn, queue), tick_all(autoconn)] == [None, 0]
    send(autoconn, queue)
    assert tick(autoconn, queue) == 2
    settle(autoconn, queue)
    assert [tick(autoconn, queue), tick_all(autoconn)] == [None, 0]


def test_the_first_event_is_due_at_once(autoconn, queue):
    send(autoconn, queue)
    assert tick_all(autoconn) == 1
    assert ticks(autoconn, queue) == 2


def test_ticker_ticks_the_due_queues_and_returns_their_number(autoconn):
    for n in range(5):
        value(autoconn, "select pgque.create_queue(%s)", f"q{n}")
    for n in (1, 3):
        send(autoconn, f"q{n}")
    assert tick_all(autoconn) == 2
    assert [ticks(autoconn, f"q{n}") for n in range(5)] == [1, 2, 1, 2, 1]


def test_max_lag_delays_a_tick_unless_max_count_events_wait(autoconn, queue):
    send(autoconn, queue)
    settle(autoconn, queue)
    configure(autoconn, queue, ticker_max_lag="1 hour", ticker_max_count=3)
    for _ in range(2):
        send(autoconn, queue)
        assert [tick(autoconn, queue), tick_all(autoconn)] == [None, 0]
    send(autoconn, queue)
    assert tick(autoconn, queue) is not None
    settle(autoconn, queue)
    send(autoconn, queue)
    assert tick(autoconn, queue) is None
    configure(autoconn, queue, ticker_max_lag="1 microsecond")
    assert tick(autoconn, queue) is not None


def test_a_queue_without_events_is_ticked_after_its_idle_period(autoconn, queue, consumer):
    configure(autoconn, queue, ticker_idle_period="1 hour")
    assert tick(autoconn, queue) is None
    configure(autoconn, queue, ticker_idle_period="1 microsecond")
    assert tick(autoconn, queue) == 2
    assert tick_all(autoconn) == 1
    assert receive(autoconn, queue, consumer) == []


# Which events a tick includes


def test_p1_a_single_event_that_commits_after_the_tick_that_counted_it_is_delivered(
    connect, autoconn, queue, consumer
):
    """No other transaction begins or ends meanwhile, so PostgreSQL's xmax does not pass it."""
    producer = connect()
    for n in range(3):
        send(producer, queue, n)
        assert tick(autoconn, queue) is not None
        assert receive(autoconn, queue, consumer) == []
        producer.commit()
        assert payloads(drain(autoconn, queue, consumer)) == [str(n)]
        settle(autoconn, queue)


def test_p1_a_late_commit_is_also_due_in_ticker_for_all_queues(connect, autoconn, queue, consumer):
    producer, other = connect(), connect()
    send(producer, queue, "late")
    send(other, queue, "later")
    assert tick_all(autoconn) == 1
    other.commit()
    assert tick_all(autoconn) == 1
    producer.commit()
    assert tick_all(autoconn) == 1
    settle(autoconn, queue)
    assert tick_all(autoconn) == 0
    assert sorted(payloads(drain(autoconn, queue, consumer))) == ["late", "later"]


def test_p1_transactions_above_the_last_finished_one_are_not_lost(
    connect, autoconn, queue, consumer
):
    """Many transactions begin, send and end in every order, with a tick between any two steps."""
    producers = [connect() for _ in range(6)]
    got = []
    for producer in producers:
        value(producer, "select pg_current_xact_id()")
        tick(autoconn, queue)
    for order in (1, -1):
        for n, producer in list(enumerate(producers))[::order]:
            send(producer, queue, f"{order} {n}")
            got += payloads(drain(autoconn, queue, consumer))
    for producer in producers[3:] + producers[:3]:
        producer.commit()
        got += payloads(drain(autoconn, queue, consumer))
    assert sorted(got) == sorted(f"{order} {n}" for order in (1, -1) for n in range(6))


def test_p1_a_rolled_back_transaction_leaves_no_tick_due(connect, autoconn, queue, consumer):
    producer = connect()
    send(producer, queue, "undone")
    tick(autoconn, queue)
    producer.rollback()
    assert drain(autoconn, queue, consumer) == []
    settle(autoconn, queue)


def test_p1_events_sent_after_a_tick_in_the_same_transaction_are_delivered(
    connect, autoconn, queue, consumer
):
    caller = connect()
    send(caller, queue, "before")
    assert tick(caller, queue) == 2
    assert receive(caller, queue, consumer) == []
    send(caller, queue, "after")
    tick(caller, queue)
    send(caller, queue, "at the end")
    caller.commit()
    messages = drain(autoconn, queue, consumer)
    assert payloads(messages) == ["before", "after", "at the end"]
    settle(autoconn, queue)


def test_p1_events_sent_between_ticks_of_other_sessions_are_delivered(
    connect, autoconn, queue, consumer
):
    caller = connect()
    value(caller, "select pgque.ticker()")
    send(caller, queue, "first")
    send(autoconn, queue, "other")
    assert payloads(drain(autoconn, queue, consumer)) == ["other"]
    send(caller, queue, "second")
    caller.commit()
    assert payloads(drain(autoconn, queue, consumer)) == ["first", "second"]


def test_p7_a_tick_stays_small_for_any_number_of_savepoints(connect, autoconn, queue, consumer):
    autoconn.execute("create table scratch (n int)")
    producer = connect()
    producer.execute(
        "do $$ begin for n in 1 .. 5000 loop "
        "begin insert into scratch values (n); exception when others then null; end; "
        "end loop; end $$"
    )
    send(producer, queue, "much work")
    tick(autoconn, queue)
    size = "select max(pg_column_size(t.*)) from pgque.tick t"
    assert value(autoconn, size) < 1000
    producer.commit()
    assert payloads(drain(autoconn, queue, consumer)) == ["much work"]


def test_p7_a_tick_stores_only_transactions_that_are_open(connect, autoconn, queue):
    def waits_for_nobody() -> bool:
        send_many(autoconn, queue, 10)
        tick(autoconn, queue)
        waiting = "select tick_waiting from pgque.tick order by tick_id desc limit 1"
        return value(autoconn, waiting) == []

    eventually(waits_for_nobody, "a moment without any other transaction")


# Notification


def test_every_tick_notifies_with_its_id_when_it_commits(connect, autoconn, queue):
    listener, ticker = connect(autocommit=True), connect()
    listener.execute(f"listen pgque_{queue}".encode())
    send(autoconn, queue)
    assert tick(ticker, queue) == 2
    listener.execute("select 1")
    assert list(listener.notifies(timeout=0)) == []
    ticker.commit()
    [notification] = listener.notifies(timeout=PATIENCE, stop_after=1)
    assert (notification.channel, notification.payload) == (f"pgque_{queue}", "2")


# Concurrent tickers


def test_p5_a_ticker_skips_a_queue_that_another_one_is_ticking(connect, autoconn, queue):
    value(autoconn, "select pgque.create_queue('other')")
    send(autoconn, queue)
    send(autoconn, "other")
    first = connect()
    tick(first, queue)
    assert tick_all(autoconn) == 1
    assert ticks(autoconn, "other") == 2
    second = connect(autocommit=True)
    waiting = Thread(lambda: tick(second, queue))
    eventually(lambda: is_blocked(autoconn, second))
    first.commit()
    assert waiting.outcome() in (None, 3)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_p2_a_snapshot_that_can_be_old_takes_no_tick(conn, queue, level):
    calls = [
        f"pgque.ticker('{queue}')",
        "pgque.ticker()",
        f"pgque.ticker('{queue}', 2, now(), 2)",
        "pgque.maint()",
        "pgque.maint_retry_events()",
        "pgque.maint_rotate_ledger()",
        f"pgque.maint_rotate_tables_step1('{queue}')",
    ]
    for call in calls:
        conn.execute(f"set transaction isolation level {level}".encode())
        with refused("PQ013", f"needs a READ COMMITTED transaction, this one is {level.upper()}"):
            conn.execute(f"select {call}".encode())
        conn.rollback()


def test_p5_a_broken_queue_is_reported_and_the_others_are_ticked(autoconn, consumer, queue):
    for name in ("bad", "worse", "good"):
        value(autoconn, "select pgque.create_queue(%s)", name)
        send(autoconn, name)
    subscribe(autoconn, "good", consumer)
    send(autoconn, queue)
    number = "select queue_id from pgque.queue where queue_name = %s"
    autoconn.execute(f"drop sequence pgque.event_{value(autoconn, number, 'bad')}_id_seq")
    autoconn.execute(f"delete from pgque.tick where tick_queue = ({number})", ["worse"])
    heard = notices(autoconn)
    assert tick_all(autoconn) == 2
    assert len(heard) == 2
    assert "WARNING: pgque: no tick for queue bad:" in heard[0]
    assert "queue worse has lost its ticks (PQ011)" in heard[1]
    assert payloads(drain(autoconn, queue, consumer)) == ["x"]
    with pytest.raises(psycopg.errors.UndefinedTable):
        tick(autoconn, "bad")
    with refused("PQ011", "queue worse has lost its ticks"):
        tick(autoconn, "worse")


# Paused queues and external tickers


def test_a_paused_queue_is_not_ticked_until_it_is_resumed(autoconn, queue, consumer):
    send(autoconn, queue, "waits")
    configure(autoconn, queue, ticker_paused=True)
    for call in ("ticker", "force_next_tick", "force_tick"):
        with refused("PQ010", "Ticker has been paused for this queue"):
            autoconn.execute(f"select pgque.{call}(%s)".encode(), [queue])
    assert tick_all(autoconn) == 0
    configure(autoconn, queue, ticker_paused=False)
    assert payloads(drain(autoconn, queue, consumer)) == ["waits"]


def test_an_external_ticker_sets_id_time_and_sequence(autoconn, queue, consumer):
    external = "select pgque.ticker(%s, %s, %s, %s)"
    with refused("PQ010", f"queue {queue} has no external tick source"):
        autoconn.execute(external, [queue, 10, "2020-01-01", 100])
    configure(autoconn, queue, external_ticker=True)
    send(autoconn, queue, "a")
    for call in ("ticker", "force_next_tick"):
        with refused("PQ010", "This queue has external tick source"):
            autoconn.execute(f"select pgque.{call}(%s)".encode(), [queue])
    assert tick_all(autoconn) == 0
    assert value(autoconn, external, queue, 10, "2020-01-01 00:00+00", 100) == 10
    row = autoconn.execute(
        "select tick_id, extract(year from tick_time at time zone 'UTC')::int, tick_event_seq "
        "from pgque.tick order by tick_id desc limit 1"
    ).fetchone()
    assert row == (10, 2020, 100)
    for tick_id, seq, error in (
        (10, 101, "tick_id must move forward: 10 is not above 10"),
        (9, 101, "tick_id must move forward: 9 is not above 10"),
        (11, 100, "event_seq must move forward: 100 is not above 100"),
        (None, 101, "tick_id and event_seq must not be null"),
        (11, None, "tick_id and event_seq must not be null"),
    ):
        with refused("22023", error):
            autoconn.execute(external, [queue, tick_id, None, seq])
    send(autoconn, queue, "b")
    by_name = "queue := %s, tick_id := 11, orig_timestamp := null, event_seq := 101"
    assert value(autoconn, f"select pgque.ticker({by_name})", queue) == 11
    first = receive(autoconn, queue, consumer)
    assert payloads(first) == ["a"]
    value(autoconn, "select pgque.ack(%s)", first[0].batch_id)
    assert payloads(receive(autoconn, queue, consumer)) == ["b"]
    configure(autoconn, queue, ticker_paused=True)
    with refused("PQ010", "Ticker has been paused"):
        autoconn.execute(external, [queue, 12, None, 102])


def test_ids_stay_in_order_across_ticks(autoconn, queue, consumer):
    sent = []
    for n in range(5):
        sent += send_many(autoconn, queue, n + 1)
        tick(autoconn, queue)
    assert ids(drain(autoconn, queue, consumer)) == sent


def test_p1_a_late_commit_is_seen_after_any_earlier_call_of_age(connect, autoconn, queue, consumer):
    """age(xid) counts from an id that PostgreSQL fixes at its first call in a transaction."""
    ticking, late = connect(), connect()
    ticking.execute("select age('3'::xid)")
    send(late, queue, "lone")
    ticking.execute("select pgque.ticker(%s)", [queue])
    ticking.commit()
    late.commit()
    assert value(autoconn, "select pgque.ticker()") == 1
    assert [m.payload for m in receive(autoconn, queue, consumer)] == ["lone"]


def test_p10_an_external_tick_with_an_infinite_time_is_refused(autoconn, queue):
    """Before PostgreSQL 17 such a tick made every later query of the queue's lag fail."""
    configure(autoconn, queue, external_ticker=True)
    with refused("22023", "orig_timestamp must be finite"):
        autoconn.execute("select pgque.ticker(%s, 10, 'infinity', 10)", [queue])
