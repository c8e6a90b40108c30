"""Rows that calls read: plans, batches of max_return events, empty windows (P7, P8)."""

import math

import pytest

from tests.fix_engine import (
    LONG,
    Connection,
    ack,
    buffers,
    configure,
    ids,
    log_of,
    receive,
    receive_coop,
    send,
    send_many,
    subscribe,
    tick,
    value,
)

# Plans


def rows_read(conn: Connection, statement: str) -> dict[str, tuple[int, int]]:
    """The number of rows of each table that a statement reads: sequentially, and by an index."""
    with conn.transaction():
        # From PostgreSQL 15 on these include what earlier transactions have not reported yet.
        before = _counters(conn)
        conn.execute(statement.encode())
        return {
            name: (seq - before.get(name, (0, 0))[0], fetched - before.get(name, (0, 0))[1])
            for name, (seq, fetched) in _counters(conn).items()
        }


def _counters(conn: Connection) -> dict[str, tuple[int, int]]:
    counters = conn.execute(
        "select relname::text, seq_tup_read, coalesce(idx_tup_fetch, 0) "
        "from pg_stat_xact_user_tables where schemaname = 'pgque'"
    )
    return {name: (seq, fetched) for name, seq, fetched in counters}


def test_p7_plans_made_for_empty_tables_stay_good_for_full_ones(connect, autoconn, queue, consumer):
    """One session plans everything while the tables are empty and keeps its plans as they fill."""
    subscribe(autoconn, queue, "behind")
    session = connect(autocommit=True)

    def street(reader: str) -> list[str]:
        batch = (
            "select max(b) from (select (pgque._position(sub_id)).cur_batch from pgque.subscriber "
            "join pgque.consumer on co_id = sub_consumer "
            f"where co_name = '{reader}') as t (b)"
        )
        return [
            f"select pgque.send('{queue}', 'x'::text)",
            "select pgque.ticker()",
            f"select pgque.ticker('{queue}')",
            f"select * from pgque.receive('{queue}', '{reader}', 10)",
            f"select * from pgque.receive_merged('{queue}', '{reader}', 20)",
            f"select pgque.event_retry(({batch}), n, 3600) from "
            f"(select max(ev_id) from pgque.get_batch_events(({batch}))) as t (n)",
            f"select pgque.ack(({batch}))",
            f"select pgque.force_next_tick('{queue}')",
            "select * from pgque.get_consumer_info()",
            "select pgque.maint_retry_events()",
            f"select pgque.maint_rotate_tables_step1('{queue}')",
        ]

    for _ in range(8):
        for statement in street(consumer):
            session.execute(statement.encode())
    autoconn.execute("analyze")
    ticks, events = 20_000, 200_000 if LONG else 50_000
    log = log_of(autoconn, queue)
    for table in ("tick_0", "cursor_0", "event_1_0"):
        autoconn.execute(f"alter table pgque.{table} set (autovacuum_enabled = off)".encode())
    for statement in street("behind"):
        session.execute(statement.encode())
    autoconn.execute(
        f"insert into {log}_0 (ev_id, ev_time, ev_txid, ev_data) select nextval('{log}_id_seq'), "
        f"now(), pg_current_xact_id(), 'x' from generate_series(1, {events})".encode()
    )
    autoconn.execute(
        "insert into pgque.tick_0 select l.tick_queue, l.tick_id + n, l.tick_time, "
        "l.tick_snapshot, l.tick_event_seq, l.tick_seq_before, l.tick_seq_after, "
        "'{}', l.tick_floor "
        f"from pgque._last_tick(1) l, generate_series(1, {ticks}) as n".encode()
    )
    autoconn.execute(
        "insert into pgque.cursor_0 (cur_sub, cur_seq, cur_tick, cur_batch) "
        f"select 77, n, 1, -n from generate_series(1, {ticks}) as n".encode()
    )
    for statement in [*street("behind"), *street("behind")]:
        for table, (sequential, fetched) in rows_read(session, statement).items():
            what = f"{table}: {sequential} rows scanned, {fetched} fetched by: {statement}"
            if table.startswith(("event", "tick", "cursor")):
                assert sequential == 0, what
                assert fetched <= 1100, what  # merging reads up to 500 ticks


def test_p8_a_consumer_gets_at_most_max_return_events_regardless_of_the_backlog(
    autoconn, queue, consumer
):
    subscribe(autoconn, queue, "merger")
    for _ in range(5):
        send_many(autoconn, queue, 400)
        tick(autoconn, queue)
    for reader, merged in ((consumer, False), ("merger", True)):
        sizes = []
        while batch := receive(autoconn, queue, reader, 150, merged=merged):
            sizes.append(len(batch))
            ack(autoconn, batch)
        assert max(sizes) == 150
        assert sum(sizes) == 2000
    value(autoconn, "select pgque.seek(%s, %s, 1)", queue, consumer)
    value(autoconn, "select pgque.register_subconsumer(%s, %s, 'm', true)", queue, consumer)
    assert len(receive_coop(autoconn, queue, consumer, "m", 150, merged=True)) == 150


def test_p8_merging_takes_enough_windows_to_fill_a_batch(autoconn, queue, consumer):
    for _ in range(60):
        send_many(autoconn, queue, 5)
        tick(autoconn, queue)
    batches = 0
    while batch := receive(autoconn, queue, consumer, 100, merged=True):
        ack(autoconn, batch)
        batches += 1
    assert batches <= math.ceil(300 / 100) + 1


@pytest.mark.parametrize("group", [False, True])
def test_p7_empty_windows_are_skipped_in_large_steps(autoconn, queue, group):
    """Idle ticks, rollbacks and other consumers' retries leave empty windows."""
    if group:
        value(autoconn, "select pgque.register_subconsumer(%s, 'c', 'm')", queue)
    else:
        subscribe(autoconn, queue, "c")
    configure(autoconn, queue, ticker_idle_period="1 microsecond")
    call = f"receive_coop('{queue}', 'c', 'm')" if group else f"receive('{queue}', 'c')"

    def cost(count: int) -> int:
        autoconn.execute(
            f"do $$ begin for n in 1 .. {count} loop "
            f"perform pgque.ticker('{queue}'); commit; end loop; end $$".encode()
        )
        event_id = send(autoconn, queue)
        tick(autoconn, queue)
        send(autoconn, queue, "in the next window")
        tick(autoconn, queue)
        cost = buffers(autoconn, call)
        for found in (event_id, event_id + 1):
            [row] = autoconn.execute(f"select * from pgque.{call}".encode()).fetchall()
            assert row[0] == found
            ack(autoconn, row[1])
        return cost

    few = cost(20)
    assert cost(1000) < 6 * few


def test_windows_between_empty_ones_are_delivered_one_by_one(autoconn, queue, consumer):
    configure(autoconn, queue, ticker_idle_period="1 microsecond")
    expected = []
    for n in range(60):
        if n in (7, 8, 13, 20, 37, 38, 39, 59):
            expected.append([send(autoconn, queue)])
        tick(autoconn, queue)
    got = []
    while batch := receive(autoconn, queue, consumer):
        got.append(ids(batch))
        ack(autoconn, batch)
    assert got == expected
