"""Windows between ticks, cut or whole, and batches by id (sql/batch, sql/window)."""

import contextlib
from collections import Counter

import hypothesis.strategies as st
import psycopg
import pytest
from hypothesis import given, settings

from tests.fix_engine import (
    LONG,
    ack,
    column,
    configure,
    drain,
    ids,
    log_of,
    nack,
    payloads,
    receive,
    refused,
    send,
    send_many,
    subscribe,
    tick,
    value,
)

EVENT_COLUMNS = (
    "ev_id",
    "ev_time",
    "ev_txid",
    "ev_retry",
    "ev_type",
    "ev_data",
    "ev_extra1",
    "ev_extra2",
    "ev_extra3",
    "ev_extra4",
)


def batch_events(conn, batch_id) -> list[str]:
    query = "select ev_data from pgque.get_batch_events(%s)"
    return [row[0] for row in conn.execute(query, [batch_id])]


def next_batch(conn, queue, consumer) -> int | None:
    return value(conn, "select pgque.next_batch(%s, %s)", queue, consumer)


# Events between two ticks


def test_p4_a_batch_is_sorted_by_id_regardless_of_commit_order(connect, autoconn, queue, consumer):
    first, second = connect(), connect()
    for n in range(3):
        send(first, queue, f"first {n}")
        send(second, queue, f"second {n}")
    second.commit()
    first.commit()
    messages = drain(autoconn, queue, consumer)
    assert payloads(messages) == [f"{who} {n}" for n in range(3) for who in ("first", "second")]
    assert ids(messages) == sorted(ids(messages))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_p6_windows_read_in_pieces_include_late_transactions(
    connect, autoconn, queue, consumer, size, merged
):
    """The ids of late events lie below, among and above those of their window."""
    late = [connect() for _ in range(3)]
    got = []

    def finish_windows() -> None:
        tick(autoconn, queue)
        while batch := receive(autoconn, queue, consumer, size, merged=merged):
            assert ids(batch) == sorted(ids(batch))
            got.extend(ids(batch))
            ack(autoconn, batch)

    send(late[0], queue)
    for n in range(6):
        send_many(autoconn, queue, 3)
        for producer in late:
            send(producer, queue)
        if n % 2:
            tick(autoconn, queue)
        else:
            finish_windows()
        if n == 2:
            late[0].commit()
            late[1].rollback()
    for producer in late:
        tick(autoconn, queue)
        producer.commit()
        send_many(autoconn, queue, 2)
    finish_windows()
    committed = column(autoconn, f"select ev_id from {log_of(autoconn, queue)}")
    assert len(committed) == 18 + 7 + 3 + 6 + 6
    assert sorted(got) == sorted(committed)


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["begin", "savepoint", "undo", "commit", "rollback"]), st.integers(0, 3)
        ),
        st.tuples(st.just("send"), st.integers(0, 3)),
        st.tuples(st.just("send"), st.integers(0, 3)),
        st.tuples(st.just("tick"), st.just(0)),
        st.tuples(st.sampled_from(["receive", "receive_merged"]), st.integers(1, 4)),
        st.tuples(st.sampled_from(["ack", "nack", "retry"]), st.just(0)),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=1000 if LONG else 15)
@given(steps=STEPS, level=st.sampled_from([2, 3, 4]))
def test_p1_p3_p4_any_sequence_of_steps_delivers_every_committed_event_once(shared, steps, level):
    """Exactly once, plus once per nack; in order inside a batch; nothing that was rolled back."""
    queue = f"q{value(shared, 'select count(*) from pgque.queue')}"
    value(shared, "select pgque.create_queue(%s)", queue)
    subscribe(shared, queue, "c")
    configure(shared, queue, max_retries=100)
    expected: Counter[int] = Counter()
    got: Counter[int] = Counter()
    with contextlib.ExitStack() as stack:
        dsn = shared.info.dsn
        producers = [stack.enter_context(psycopg.connect(dsn)) for _ in range(4)]
        for producer in producers:
            producer.isolation_level = psycopg.IsolationLevel(level)
        open_sends: list[list[int]] = [[] for _ in producers]
        marks: list[int | None] = [None for _ in producers]
        batch: list = []

        def finish_batch() -> None:
            if batch:
                assert ack(shared, batch) == 1
                got.update(ids(batch))
                batch.clear()

        def finish(n: int, how: str) -> None:
            getattr(producers[n], how)()
            if how == "commit":
                expected.update(open_sends[n])
            open_sends[n].clear()
            marks[n] = None

        def step(kind: str, n: int) -> None:
            if kind == "begin":
                value(producers[n], "select pg_current_xact_id()")
            elif kind == "send":
                open_sends[n].append(send(producers[n], queue))
            elif kind == "savepoint":
                producers[n].execute("savepoint s")
                marks[n] = len(open_sends[n])
            elif kind == "undo" and marks[n] is not None:
                producers[n].execute("rollback to savepoint s")
                del open_sends[n][marks[n] :]
            elif kind in ("commit", "rollback"):
                finish(n, kind)
            elif kind == "tick":
                tick(shared, queue)
            elif kind.startswith("receive"):
                again = receive(shared, queue, "c", n, merged=kind == "receive_merged")
                assert ids(again) == sorted(ids(again))
                assert not batch or ids(again)[: len(batch)] == ids(batch)[: len(again)]
                batch[:] = again
            elif kind == "ack":
                finish_batch()
            elif kind == "nack" and batch:
                nack(shared, batch[0])
                expected[batch[0].msg_id] += 1
                finish_batch()
            elif kind == "retry":
                value(shared, "select pgque.maint_retry_events()")

        for kind, n in steps:
            step(kind, n)
        finish_batch()
        for n in range(4):
            finish(n, "commit")
    value(shared, "select pgque.maint_retry_events()")
    got.update(ids(drain(shared, queue, "c", 3)))
    assert got == expected


# Whole windows


def test_next_batch_opens_windows_one_by_one_even_if_empty(autoconn, queue, consumer):
    assert next_batch(autoconn, queue, consumer) is None
    send_many(autoconn, queue, 150)
    tick(autoconn, queue)
    value(autoconn, "select pgque.force_next_tick(%s)", queue)
    tick(autoconn, queue)
    first = next_batch(autoconn, queue, consumer)
    assert next_batch(autoconn, queue, consumer) == first
    assert batch_events(autoconn, first) == [str(n) for n in range(1, 151)]
    assert value(autoconn, "select pgque.finish_batch(%s)", first) == 1
    second = next_batch(autoconn, queue, consumer)
    assert batch_events(autoconn, second) == []
    assert value(autoconn, "select pgque.finish_batch(batch_id := %s)", second) == 1
    assert next_batch(autoconn, queue, consumer) is None


def test_get_batch_events_has_the_columns_of_pgq(autoconn, queue, consumer):
    value(autoconn, "select pgque.insert_event(%s, 't', 'd', '1', '2', '3', '4')", queue)
    tick(autoconn, queue)
    batch_id = next_batch(autoconn, queue, consumer)
    cursor = autoconn.execute("select * from pgque.get_batch_events(%s)", [batch_id])
    assert tuple(column.name for column in cursor.description) == EVENT_COLUMNS
    [row] = cursor.fetchall()
    assert row[3:] == (0, "t", "d", "1", "2", "3", "4")
    txid = "select ev_txid::text::bigint from pgque.event_1"
    assert row[2] == value(autoconn, txid)


def test_next_batch_info_returns_both_ticks_of_the_window(autoconn, queue, consumer):
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    columns = (
        "batch_id, cur_tick_id, prev_tick_id, cur_tick_time > prev_tick_time, "
        "cur_tick_event_seq, prev_tick_event_seq"
    )
    query = f"select {columns} from pgque.next_batch_info(%s, %s)"
    row = autoconn.execute(query, [queue, consumer]).fetchone()
    assert row[1:] == (2, 1, True, 3, 0)
    ack(autoconn, row[0])
    assert autoconn.execute(query, [queue, consumer]).fetchone() == (None,) * 6


def test_next_batch_custom_waits_for_count_interval_or_lag(autoconn, queue, consumer):
    for _ in range(3):
        send_many(autoconn, queue, 2)
        tick(autoconn, queue)
    query = (
        "select prev_tick_id, cur_tick_id, batch_id "
        "from pgque.next_batch_custom(%s, %s, %s::interval, %s::int, %s::interval)"
    )

    def custom(min_lag, min_count, min_interval):
        return autoconn.execute(
            query, [queue, consumer, min_lag, min_count, min_interval]
        ).fetchone()

    assert custom(None, 7, None) == (None, None, None)
    assert custom("1 hour", None, None) == (None, None, None)
    assert custom(None, None, "1 hour") == (None, None, None)
    assert custom("1 hour", 1, "1 microsecond") == (None, None, None)
    *window, batch_id = custom("0", 3, "1 hour")
    assert window == [1, 3]
    assert custom(None, 100, None)[2] == batch_id
    assert batch_events(autoconn, batch_id) == ["1", "2", "1", "2"]
    ack(autoconn, batch_id)
    assert custom(None, None, None)[:2] == (3, 4)


def test_p6_a_whole_window_after_a_piece_holds_the_remaining_events(autoconn, queue, consumer):
    send_many(autoconn, queue, 5)
    tick(autoconn, queue)
    piece = receive(autoconn, queue, consumer, 2)
    assert batch_events(autoconn, piece[0].batch_id) == ["1", "2"]
    assert next_batch(autoconn, queue, consumer) == piece[0].batch_id
    ack(autoconn, piece)
    rest = next_batch(autoconn, queue, consumer)
    assert batch_events(autoconn, rest) == ["3", "4", "5"]
    cut = receive(autoconn, queue, consumer, 1)
    assert cut[0].batch_id != rest
    assert ack(autoconn, rest) == 0
    assert ack(autoconn, cut) == 1
    assert payloads(drain(autoconn, queue, consumer)) == ["4", "5"]


def test_a_batch_can_be_read_with_a_cursor(conn, autoconn, queue, consumer):
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    batch_id = next_batch(conn, queue, consumer)
    quick = "select ev_data from pgque.get_batch_cursor(%s, 'Events', %s)"
    assert [row[0] for row in conn.execute(quick, [batch_id, 4])] == ["1", "2", "3", "4"]
    cursor = conn.execute('fetch 100 from "Events"')
    assert tuple(column.name for column in cursor.description) == EVENT_COLUMNS
    assert [row[5] for row in cursor] == ["5", "6", "7", "8", "9", "10"]
    conn.execute('close "Events"')

    filtered = (
        "select ev_data from pgque.get_batch_cursor("
        "batch_id := %s, cursor_name := 'c', quick_limit := %s, extra_where := %s)"
    )
    assert [
        row[0] for row in conn.execute(filtered, [batch_id, 1, "ev_data::int > 8 or false"])
    ] == ["9"]
    assert [row[5] for row in conn.execute("fetch all from c")] == ["10"]
    conn.execute("close c")
    assert conn.execute(filtered, [batch_id, 0, None]).fetchall() == []
    assert len(conn.execute("fetch all from c").fetchall()) == 10
    conn.execute("close c")
    assert len(conn.execute(filtered, [batch_id, 100, None]).fetchall()) == 10


@pytest.mark.parametrize("count", [-1, None])
def test_p10_get_batch_cursor_rejects_bad_arguments(conn, autoconn, queue, consumer, count):
    send(autoconn, queue)
    tick(autoconn, queue)
    batch_id = next_batch(autoconn, queue, consumer)
    with refused("22023", "quick_limit must be >= 0"), conn.transaction():
        conn.execute("select pgque.get_batch_cursor(%s, 'c', %s::int)", [batch_id, count])
    with refused("22023", "cursor_name must not be null"), conn.transaction():
        conn.execute("select pgque.get_batch_cursor(%s, null, 1)", [batch_id])


# Batches that are not open


BY_BATCH = [
    "pgque.nack(%s, row(1,1,'t','d',0,now(),null,null,null,null)::pgque.message)",
    "pgque.get_batch_events(%s)",
    "pgque.get_batch_cursor(%s, 'c', 1)",
    "pgque.get_batch_cursor(%s, 'c', 1, 'true')",
    "pgque.get_batch_info(%s)",
    "pgque.event_retry(%s, 1, 1)",
    "pgque.event_retry(%s, 1, now())",
    "pgque.batch_retry(%s, 1)",
    "pgque.event_dead(%s, 1, 'r', now(), '1', 0, 't', 'd')",
]


@pytest.mark.parametrize("call", BY_BATCH)
@pytest.mark.parametrize("fate", ["never was", "null", "finished", "resized", "unsubscribed"])
def test_p9_p10_an_error_names_the_batch_that_is_not_open(shared, shared_queue, call, fate):
    send_many(shared, shared_queue, 3)
    tick(shared, shared_queue)
    batch = receive(shared, shared_queue, "c", 2)
    batch_id = batch[0].batch_id
    if fate == "never was":
        batch_id = 99999
    elif fate == "null":
        batch_id = None
    elif fate == "finished":
        ack(shared, batch)
    elif fate == "resized":
        receive(shared, shared_queue, "c", 1)
    elif fate == "unsubscribed":
        value(shared, "select pgque.unsubscribe(%s, %s)", shared_queue, "c")
    with refused("PQ003", f"batch not found: {'<NULL>' if batch_id is None else batch_id}"):
        shared.execute(f"select {call}".encode(), [batch_id])
    for table in ("retry_queue", "dead_letter"):
        assert value(shared, f"select count(*) from pgque.{table}") == 0


def test_batch_ids_are_never_reused(autoconn, queue, consumer):
    value(autoconn, "select pgque.create_queue('other')")
    subscribe(autoconn, "other", "x", "y")
    seen = []
    for _ in range(3):
        for name, reader in ((queue, consumer), ("other", "x"), ("other", "y")):
            send(autoconn, name)
            tick(autoconn, name)
            batch = receive(autoconn, name, reader)
            seen.append(batch[0].batch_id)
            ack(autoconn, batch)
    assert len(set(seen)) == 9
    assert seen == sorted(seen)
