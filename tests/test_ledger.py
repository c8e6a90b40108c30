"""TRUNCATE also returns the space of ticks and cursors (sql/ledger)."""

from threading import Event

from tests.fix_engine import (
    LONG,
    Thread,
    ack,
    column,
    configure,
    drain,
    ids,
    payloads,
    receive,
    receive_coop,
    refused,
    rotate_ledger,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)
from tests.running import eventually


def ledger_bytes(conn) -> int:
    query = (
        "select sum(pg_relation_size(format('pgque.%s_%s', kind, n)))::bigint "
        "from unnest('{tick,cursor}'::text[]) as kind, generate_series(0, 1) as n"
    )
    return value(conn, query)


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


def test_p6_a_batch_in_pieces_survives_rotations_of_the_ledger(autoconn, queue, consumer):
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


def test_a_rotation_of_the_ledger_removes_rows_of_dropped_queues(autoconn, queue, consumer):
    for _ in range(3):
        send(autoconn, queue)
        tick(autoconn, queue)
    value(autoconn, "select pgque.drop_queue(%s, true)", queue)
    assert value(autoconn, "select count(*) from pgque.tick") > 0
    assert rotate_ledger(autoconn)
    assert value(autoconn, "select count(*) from pgque.tick") == 0
    assert value(autoconn, "select count(*) from pgque.cursor") == 0


def test_older_history_is_thinned_more(autoconn, queue):
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


def test_p5_an_open_read_of_the_ledger_postpones_its_truncation(connect, autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    reader = connect()
    value(reader, "select count(*) from pgque.tick")
    assert not rotate_ledger(autoconn)
    reader.rollback()
    assert rotate_ledger(autoconn)
    assert len(drain(autoconn, queue, consumer)) == 1


def test_p5_consumers_tickers_and_rotations_can_run_at_once(connect, autoconn, queue, consumer):
    """The log and the ledger rotate during the work, and every event is delivered once."""
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


def test_p3_calls_that_waited_for_a_rotation_see_the_newest_ticks_and_positions(
    connect, autoconn, queue
):
    """TRUNCATE ignores snapshots, so a call that waited for it must read again with a new one."""
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
