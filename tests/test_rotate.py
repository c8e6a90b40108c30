"""Space comes back by TRUNCATE and nothing is lost by it (13_rotate.sql, 16_ledger.sql)."""

from threading import Event

import pytest

from tests.fix_engine import (
    LONG,
    Thread,
    ack,
    column,
    configure,
    drain,
    ids,
    log_of,
    nack,
    payloads,
    receive,
    receive_coop,
    refused,
    rotate,
    rotate_ledger,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)
from tests.running import eventually


def children(conn, queue) -> list[int]:
    """How many events each child of the log has."""
    log = log_of(conn, queue)
    return [value(conn, f"select count(*) from {log}_{n}") for n in range(3)]


def ledger_bytes(conn) -> int:
    query = (
        "select sum(pg_relation_size(format('pgque.%s_%s', kind, n)))::bigint "
        "from unnest('{tick,cursor}'::text[]) as kind, generate_series(0, 1) as n"
    )
    return value(conn, query)


# The log


def test_rotation_writes_to_the_children_in_turn_and_empties_the_oldest(autoconn, queue, consumer):
    counts = []
    for n in range(7):
        send_many(autoconn, queue, n + 1)
        drain(autoconn, queue, consumer)
        counts.append(children(autoconn, queue))
        assert rotate(autoconn, queue) == 1
    assert counts == [
        [1, 0, 0],
        [1, 2, 0],
        [1, 2, 3],
        [4, 2, 3],
        [4, 5, 3],
        [4, 5, 6],
        [7, 5, 6],
    ]


def test_rotation_waits_for_its_period(autoconn, queue, consumer):
    send(autoconn, queue)
    drain(autoconn, queue, consumer)
    step1 = "select pgque.maint_rotate_tables_step1(queue := %s)"
    assert value(autoconn, step1, queue) == 0
    configure(autoconn, queue, rotation_period="1 microsecond")
    assert value(autoconn, step1, queue) == 1
    configure(autoconn, queue, rotation_period=None)
    assert value(autoconn, step1, queue) == 0


def test_an_empty_log_is_not_rotated(autoconn, queue, consumer):
    assert rotate(autoconn, queue) == 0
    send(autoconn, queue)
    drain(autoconn, queue, consumer)
    assert [rotate(autoconn, queue) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert sum(children(autoconn, queue)) == 0


def test_step_2_does_nothing_and_returns_0(autoconn):
    assert value(autoconn, "select pgque.maint_rotate_tables_step2()") == 0


def test_p1_nothing_is_truncated_that_a_consumer_has_not_acked(autoconn, queue, consumer):
    subscribe(autoconn, queue, "slow")
    sent = []
    for n in range(6):
        sent += send_many(autoconn, queue, 3)
        assert len(drain(autoconn, queue, consumer)) == 3
        assert rotate(autoconn, queue) == (1 if n < 2 else 0)
    assert ids(drain(autoconn, queue, "slow", 2)) == sent
    assert rotate(autoconn, queue) == 1


def test_p1_an_open_batch_keeps_its_events(autoconn, queue, consumer):
    sent = send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 2)
    for _ in range(3):
        rotate(autoconn, queue)
    assert receive(autoconn, queue, consumer, 2) == batch
    ack(autoconn, batch)
    for _ in range(3):
        rotate(autoconn, queue)
    assert ids(drain(autoconn, queue, consumer)) == sent[2:]


def test_p1_what_is_not_ticked_yet_is_kept_even_without_consumers(autoconn, queue):
    send(autoconn, queue, "kept")
    for _ in range(4):
        rotate(autoconn, queue)
    subscribe(autoconn, queue, "c")
    assert payloads(drain(autoconn, queue, "c")) == ["kept"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("rotations", [1, 2, 3, 4])
def test_p2_a_producer_whose_snapshot_is_older_than_a_rotation(
    connect, autoconn, queue, consumer, level, rotations
):
    """It writes to the child of its snapshot, with a transaction id of now."""
    old = connect()
    old.execute(f"set transaction isolation level {level}".encode())
    value(old, "select count(*) from pgque.queue")
    for _ in range(rotations):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        assert rotate(autoconn, queue) == 1
    send(old, queue, "old snapshot")
    for _ in range(3):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        rotate(autoconn, queue)
    old.commit()
    for _ in range(2):
        rotate(autoconn, queue)
    assert payloads(drain(autoconn, queue, consumer)) == ["old snapshot"]


def test_p2_a_prepared_transaction_that_commits_two_rotations_later(
    conn, autoconn, queue, consumer
):
    send(conn, queue, "prepared")
    conn.execute(f"prepare transaction 'rotation {queue}'".encode())
    rotated = 0
    for _ in range(6):
        send(autoconn, queue, "other")
        drain(autoconn, queue, consumer)
        rotated += rotate(autoconn, queue)
        assert rotate_ledger(autoconn)
    assert rotated == 2
    autoconn.execute(f"commit prepared 'rotation {queue}'".encode())
    assert payloads(drain(autoconn, queue, consumer)) == ["prepared"]
    assert rotate(autoconn, queue) == 1


def test_p2_a_prepared_transaction_that_is_rolled_back_is_never_delivered(
    conn, autoconn, queue, consumer
):
    send(conn, queue, "undone")
    conn.execute(f"prepare transaction 'undone {queue}'".encode())
    send(autoconn, queue)
    drain(autoconn, queue, consumer)
    autoconn.execute(f"rollback prepared 'undone {queue}'".encode())
    assert drain(autoconn, queue, consumer) == []


def test_p7_an_old_transaction_elsewhere_does_not_stop_rotation(connect, autoconn, queue, consumer):
    old = connect()
    value(old, "select pg_current_xact_id()")
    old.execute("create table elsewhere ()")
    for _ in range(6):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        assert rotate(autoconn, queue) == 1
    assert sum(children(autoconn, queue)) == 2


def test_p5_a_consumer_whose_handlers_take_long_does_not_stop_rotation(
    connect, autoconn, queue, consumer
):
    """It has received, nacked and acked, and its transaction is open over all rotations."""
    subscribe(autoconn, queue, "slow")
    worker = connect()
    for n in range(5):
        send_many(autoconn, queue, 2)
        assert len(drain(autoconn, queue, consumer)) == 2
        if n == 0:
            first, second = receive(worker, queue, "slow")
            nack(worker, first, "1 hour")
            assert receive(worker, queue, "slow") == [first, second]
        rotated = rotate(autoconn, queue)
        assert rotated == (1 if n < 2 else 0), "the slow consumer has not committed"
    ack(worker, first.batch_id)
    rest = receive(worker, queue, "slow")
    assert len(rest) == 2
    ack(worker, rest)
    worker.commit()
    batch = receive(worker, queue, "slow")
    assert batch
    assert rotate(autoconn, queue) == 1, "what it has acked is free while it holds the next"
    value(worker, "select pgque.get_batch_events(%s)", batch[0].batch_id)
    ack(worker, batch)
    while batch := receive(worker, queue, "slow"):
        ack(worker, batch)
    worker.commit()
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 1


def test_p5_rotation_under_constant_readers(connect, autoconn, queue, consumer):
    """There is no moment without an open transaction that has read the log."""
    readers = [connect() for _ in range(3)]
    names = [f"reader {n}" for n in range(3)]
    subscribe(autoconn, queue, *names)
    rotated = 0
    switched = 0
    send(autoconn, queue)
    tick(autoconn, queue)
    for reader, name in zip(readers, names, strict=True):
        assert receive(reader, queue, name)
    for n in range(30):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        reader, name = readers[n % 3], names[n % 3]
        ack(reader, receive(reader, queue, name))
        reader.commit()
        assert receive(reader, queue, name)
        rotated += rotate(autoconn, queue)
        autoconn.execute("update pgque.config set ledger_max_bytes = 0")
        autoconn.execute("select setval('pgque.ledger_kept_bytes', 0)")
        switched += value(autoconn, "select pgque.maint_rotate_ledger()")
    assert rotated >= 6
    assert switched >= 3


def test_p5_a_child_that_is_in_use_is_left_for_later(connect, autoconn, queue, consumer):
    send(autoconn, queue)
    drain(autoconn, queue, consumer)
    for _ in range(2):
        rotate(autoconn, queue)
    reader = connect()
    value(reader, f"select count(*) from {log_of(autoconn, queue)}")
    assert rotate(autoconn, queue) == 0
    reader.rollback()
    assert rotate(autoconn, queue) == 1


def test_p5_maint_rotates_every_queue_that_is_due_and_goes_on_after_a_fault(autoconn):
    for name in ("a", "bad", "c"):
        value(autoconn, "select pgque.create_queue(%s)", name)
        configure(autoconn, name, rotation_period="1 microsecond")
        send(autoconn, name)
        tick(autoconn, name)
    autoconn.execute(f"drop table {log_of(autoconn, 'bad')} cascade".encode())
    assert value(autoconn, "select pgque.maint()") == 2
    current = "select queue_cur_table from pgque.queue order by queue_id"
    assert column(autoconn, current) == [1, 0, 1]


# The ledger


def test_p7_the_ledger_stays_small_over_thousands_of_batches(autoconn, queue, consumer):
    autoconn.execute("update pgque.config set ledger_max_bytes = 65536")
    largest = 0
    for _ in range(10_000 if LONG else 500):
        send(autoconn, queue)
        tick(autoconn, queue)
        ack(autoconn, receive(autoconn, queue, consumer))
        value(autoconn, "select pgque.maint_rotate_ledger()")
        largest = max(largest, ledger_bytes(autoconn))
    assert largest < 250_000


def test_p6_a_cut_batch_and_its_ticks_survive_rotations_of_the_ledger(autoconn, queue, consumer):
    sent = send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer, 3))
    for n in range(5):
        send(autoconn, queue)
        tick(autoconn, queue)
        batch = receive(autoconn, queue, consumer, 1)
        assert rotate_ledger(autoconn)
        assert receive(autoconn, queue, consumer, 1) == batch
        assert ids(batch) == [sent[3 + n]]
        assert ack(autoconn, batch) == 1
    assert ids(drain(autoconn, queue, consumer)) == [*sent[8:], 11, 12, 13, 14, 15]


def test_positions_of_idle_consumers_survive_rotations_of_the_ledger(autoconn, queue, consumer):
    value(autoconn, "select pgque.create_queue('idle')")
    subscribe(autoconn, "idle", "c")
    for _ in range(4):
        send(autoconn, queue)
        drain(autoconn, queue, consumer)
        assert rotate_ledger(autoconn)
    assert receive(autoconn, "idle", "c") == []
    send(autoconn, "idle", "first")
    assert payloads(drain(autoconn, "idle", "c")) == ["first"]


def test_rows_of_dropped_queues_and_consumers_go_with_the_ledger(autoconn, queue, consumer):
    for _ in range(3):
        send(autoconn, queue)
        tick(autoconn, queue)
    value(autoconn, "select pgque.drop_queue(%s, true)", queue)
    assert value(autoconn, "select count(*) from pgque.tick") > 0
    assert rotate_ledger(autoconn)
    assert value(autoconn, "select count(*) from pgque.tick") == 0
    assert value(autoconn, "select count(*) from pgque.cursor") == 0


def test_history_is_thinned_the_older_it_is(autoconn, queue):
    for _ in range(60):
        value(autoconn, "select pgque.force_next_tick(%s)", queue)
        tick(autoconn, queue)
    autoconn.execute(
        "update pgque.tick set tick_time = now() - interval '1 hour' + tick_id * interval '1 s'"
    )
    assert rotate_ledger(autoconn)
    kept = column(autoconn, "select tick_id from pgque.tick order by tick_id")
    assert 2 <= len(kept) <= 4
    assert (kept[0], kept[-1]) == (1, 61)


def test_p5_a_read_transaction_keeps_the_ledger_it_has_read(connect, autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    reader = connect()
    value(reader, "select count(*) from pgque.tick")
    assert not rotate_ledger(autoconn)
    reader.rollback()
    assert rotate_ledger(autoconn)
    assert len(drain(autoconn, queue, consumer)) == 1


def test_p5_consumers_tickers_and_rotations_at_once(connect, autoconn, queue, consumer):
    """The log and the ledger turn under everybody's feet, and every event comes once."""
    subscribe(autoconn, queue, "whole")
    value(autoconn, "select pgque.register_subconsumer(%s, 'g', 'a')", queue)
    autoconn.execute("update pgque.config set ledger_max_bytes = 0")
    autoconn.execute("select setval('pgque.ledger_kept_bytes', 0)")
    configure(autoconn, queue, rotation_period="1 microsecond")
    count = 3_000 if LONG else 400
    rotations = 30 if LONG else 4
    rotated: list[int] = []
    sent: list[int] = []
    all_sent = Event()
    done = Event()

    def produce(conn) -> None:
        while not done.is_set() and (len(sent) < count or len(rotated) < rotations):
            sent.append(send(conn, queue))
        all_sent.set()

    def maintain(conn) -> None:
        while not done.is_set():
            tick(conn, queue)
            rotated.extend([1] * value(conn, "select pgque.maint_rotate_tables_step1(%s)", queue))
            conn.execute("select setval('pgque.ledger_kept_bytes', 0)")
            value(conn, "select pgque.maint_rotate_ledger()")

    def consume(conn, function, *arguments) -> list[int]:
        got: list[int] = []
        while not done.is_set() and not (all_sent.is_set() and len(got) >= len(sent)):
            with conn.transaction():
                if batch := function(conn, queue, *arguments):
                    got += ids(batch)
                    assert ack(conn, batch) == 1
        return got

    producer = Thread(produce, connect(autocommit=True))
    maintainer = Thread(maintain, connect(autocommit=True))
    consumers = [
        Thread(consume, connect(autocommit=True), receive, consumer, 3),
        Thread(consume, connect(autocommit=True), receive, "whole", 50),
        Thread(consume, connect(autocommit=True), receive_coop, "g", "a", 7),
    ]
    try:
        producer.outcome(100)
        got = [thread.outcome(100) for thread in consumers]
    finally:
        done.set()
    maintainer.outcome()
    assert all(sorted(part) == sorted(sent) for part in got)
    assert len(rotated) >= rotations


def test_p3_ticks_and_positions_seen_during_a_rotation_are_the_newest(connect, autoconn, queue):
    """A TRUNCATE knows no snapshots: whoever waited for it must look again, not at the past."""
    subscribe(autoconn, queue, "c")
    send(autoconn, queue, "first")
    settle(autoconn, queue)
    newest = value(autoconn, "select max(tick_id) from pgque.tick")
    autoconn.execute("update pgque.config set ledger_max_bytes = 0")
    autoconn.execute("select setval('pgque.ledger_kept_bytes', 0)")
    assert value(autoconn, "select pgque.maint_rotate_ledger()") == 1
    rotating = connect()
    assert value(rotating, "select pgque.maint_rotate_ledger()") == 1
    calls = [
        lambda c: payloads(receive(c, queue, "c")),
        lambda c: tick(c, queue),
        lambda c: value(c, "select pgque.force_next_tick(%s)", queue),
        lambda c: value(c, "select pgque.subscribe(%s, 'new')", queue),
        lambda c: value(c, "select last_tick_id from pgque.get_queue_info(%s)", queue),
        lambda c: value(c, "select pgque.ticker()"),
    ]
    others = [connect(autocommit=True) for _ in calls]
    waiting = [Thread(call, other) for call, other in zip(calls, others, strict=True)]
    blocked = (
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = %s"
    )
    eventually(lambda: value(autoconn, blocked, autoconn.info.dbname) == len(calls))
    rotating.commit()
    results = [thread.outcome() for thread in waiting]
    assert results[0] == ["first"]
    assert results[2:4] == [newest, 1]
    assert results[4] >= newest
    with refused("PQ011", "tick not found: 999"):
        autoconn.execute("select pgque.seek(%s, 'new', 999)", [queue])
