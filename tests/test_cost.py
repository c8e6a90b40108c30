"""The cost of a call, in buffers, does not grow with unrelated data (P7, P8)."""

import pytest

from tests.fix_engine import (
    LONG,
    Connection,
    ack,
    buffers,
    drain,
    ids,
    receive,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)

CYCLES = 5000 if LONG else 1000
SLACK = 12
"""Buffers that a call may need in addition, for another index level or a full page."""


class Street:
    """One cycle from send to ack, with the cost of each call."""

    def __init__(self, conn: Connection, queue: str, consumer: str) -> None:
        self.conn = conn
        self.queue = queue
        self.consumer = consumer

    def cycle(self) -> dict[str, int]:
        queue, consumer, conn = self.queue, self.consumer, self.conn
        cost = {
            "send": buffers(conn, f"send('{queue}', 'x'::text)"),
            "ticker": buffers(conn, "ticker()"),
            "receive": buffers(conn, f"receive('{queue}', '{consumer}')"),
        }
        batch_id = value(conn, "select sub_batch from pgque.subscription where sub_batch > 0")
        [event] = receive(conn, queue, consumer)
        message = f"row({event.msg_id},1,'','',0,now(),'','','','')::pgque.message"
        cost["nack"] = buffers(conn, f"nack({batch_id}, {message}, '1 day')")
        cost["ack"] = buffers(conn, f"ack({batch_id})")
        cost["receive nothing"] = buffers(conn, f"receive('{queue}', '{consumer}')")
        return cost

    def typical(self) -> dict[str, int]:
        """The third-lowest cost of nine cycles; other databases can make some dearer."""
        cycles = [self.cycle() for _ in range(9)]
        return {call: sorted(cycle[call] for cycle in cycles)[2] for call in cycles[0]}

    def run(self, count: int) -> None:
        self.conn.execute(
            """
            do $$
            declare
                batch bigint;
            begin
                for n in 1 .. COUNT loop
                    perform pgque.send('QUEUE', 'x'::text);
                    commit;
                    perform pgque.ticker();
                    commit;
                    select batch_id into batch from pgque.receive('QUEUE', 'CONSUMER');
                    perform pgque.ack(batch);
                    commit;
                end loop;
            end
            $$
            """.replace("COUNT", str(count))
            .replace("QUEUE", self.queue)
            .replace("CONSUMER", self.consumer)
            .encode()
        )


@pytest.fixture
def street(autoconn, queue, consumer) -> Street:
    street = Street(autoconn, queue, consumer)
    street.typical()
    return street


def assert_flat(before: dict[str, int], after: dict[str, int]) -> None:
    grown = {
        call: (before[call], after[call]) for call in before if after[call] > before[call] + SLACK
    }
    assert not grown


# P7


@pytest.mark.parametrize("around", ["nothing", "a pinned horizon", "an old write transaction"])
def test_p7_the_cost_of_a_cycle_stays_flat_over_thousands_of_cycles(
    connect, autoconn, street, around
):
    other = connect()
    if around == "a pinned horizon":
        other.execute("set transaction isolation level repeatable read")
        value(other, "select count(*) from pg_class")
    elif around == "an old write transaction":
        value(other, "select pg_current_xact_id()")
        send(other, street.queue, "very late")
    before = street.typical()
    street.run(CYCLES if around == "a pinned horizon" else CYCLES // 4)
    after = street.typical()
    assert_flat(before, after)
    if autoconn.info.server_version >= 150000:
        autoconn.execute("select pg_stat_force_next_flush()")
    dead = dict(
        autoconn.execute(
            "select relname::text, n_dead_tup from pg_stat_user_tables where schemaname = 'pgque' "
            "and relname ~ '^(event|tick|cursor|subscriber|queue|consumer|config)'"
        ).fetchall()
    )
    assert len(dead) >= 13
    assert set(dead.values()) == {0}, dead


def test_p7_cost_depends_on_the_window_not_on_the_backlog(connect, autoconn, queue, consumer):
    subscribe(autoconn, queue, "behind")
    street = Street(autoconn, queue, consumer)

    def next_of_behind() -> int:
        cost = buffers(autoconn, f"receive('{queue}', 'behind', 1)")
        ack(autoconn, receive(autoconn, queue, "behind", 1))
        return cost

    before = street.typical()
    first = min(next_of_behind() for _ in range(3))
    for _ in range(10):
        autoconn.execute(
            "select pgque.send_batch(%s, array(select repeat('x', 50) "
            "from generate_series(1, 2000)))",
            [queue],
        )
        tick(autoconn, queue)
    drain(autoconn, queue, consumer, 100_000)
    # The indexes have one level more than those of an empty log, and no more than one.
    after = street.typical()
    assert all(after[call] < 2 * before[call] for call in before), (before, after)
    assert min(next_of_behind() for _ in range(3)) < 2 * first


@pytest.mark.parametrize("late", [False, True])
def test_p7_a_large_window_is_read_in_pieces_without_reading_it_whole(
    connect, autoconn, queue, consumer, late
):
    """With 100,000 events in a window, 20,000 of them late, a piece costs only its own events."""
    other = connect()
    sending = "select pgque.send_batch(%s, array(select n::text from generate_series(1, %s) as n))"
    value(other, sending, queue, 10_000)
    value(autoconn, sending, queue, 1)
    tick(autoconn, queue)
    value(other, sending, queue, 10_000)
    value(autoconn, sending, queue, 80_000)
    if late:
        other.commit()
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer))
    costs = []
    for _ in range(5):
        costs.append(buffers(autoconn, f"receive('{queue}', '{consumer}', 100)"))
        batch = receive(autoconn, queue, consumer, 100)
        assert len(batch) == 100
        ack(autoconn, batch)
    assert sorted(costs)[2] < 250, costs


def test_p7_many_redeliveries_are_also_read_in_pieces(autoconn, queue, consumer):
    count = 5000
    send_many(autoconn, queue, 2 * count)
    tick(autoconn, queue)
    batch_id = value(autoconn, "select pgque.next_batch(%s, %s)", queue, consumer)
    assert value(autoconn, "select pgque.batch_retry(%s, 0)", batch_id) == 2 * count
    ack(autoconn, batch_id)
    autoconn.execute(
        "update pgque.retry_queue set ev_retry_after = ev_retry_after + interval '1 day' "
        "where ev_id % 2 = 0"
    )
    assert value(autoconn, "select pgque.maint_retry_events()") == count
    autoconn.execute("update pgque.retry_queue set ev_retry_after = now()")
    assert value(autoconn, "select pgque.maint_retry_events()") == count
    tick(autoconn, queue)
    costs = []
    got = []
    for _ in range(6):
        costs.append(buffers(autoconn, f"receive('{queue}', '{consumer}', 10)"))
        batch = receive(autoconn, queue, consumer, 10)
        assert ids(batch) == sorted(ids(batch))
        got += ids(batch)
        ack(autoconn, batch)
    assert max(costs[1:]) < 400, costs
    got += ids(drain(autoconn, queue, consumer, 3000))
    # Each piece is sorted by id. The pieces follow transactions, so the first maintenance is first.
    assert got[:60] == list(range(1, 121, 2))
    assert sorted(got) == list(range(1, 2 * count + 1))


def test_p7_a_nack_reads_one_event_regardless_of_batch_size(autoconn, queue, consumer):
    newest = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"

    def cost(count: int) -> int:
        began = value(autoconn, newest)
        sent = send_many(autoconn, queue, count)
        tick(autoconn, queue)
        transactions = value(autoconn, newest) - began + 1  # including other sessions
        batch_id = value(autoconn, "select pgque.next_batch(%s, %s)", queue, consumer)
        message = f"row({sent[count // 2]},1,'','',0,now(),'','','','')::pgque.message"
        nack_it = f"nack({batch_id}, {message}, '1 day')"
        measured = min(buffers(autoconn, nack_it) for _ in range(3))
        ack(autoconn, batch_id)
        # The event is found by bisection among the window's transactions: a few pages per step.
        return measured - 10 * transactions.bit_length()

    small = cost(10)
    assert cost(20_000) <= small + SLACK + 20


def test_p7_an_idle_system_writes_nothing(autoconn, queue, consumer):
    send(autoconn, queue)
    assert len(drain(autoconn, queue, consumer)) == 1
    settle(autoconn, queue)
    calls = [
        "pgque.ticker()",
        f"pgque.ticker('{queue}')",
        f"pgque.receive('{queue}', '{consumer}')",
        f"pgque.receive_merged('{queue}', '{consumer}')",
        f"pgque.next_batch('{queue}', '{consumer}')",
        "pgque.maint_retry_events()",
        "pgque.maint()",
    ]
    for call in calls:
        value(autoconn, f"select {call}")
    with autoconn.transaction():
        for call in calls:
            value(autoconn, f"select {call}")
            assigned = value(autoconn, "select pg_current_xact_id_if_assigned()::text")
            assert assigned is None, call


@pytest.mark.parametrize("count", [50])
def test_p7_polling_many_idle_queues_reads_a_few_buffers_each(autoconn, count):
    autoconn.execute(
        f"select pgque.create_queue('q' || n) from generate_series(1, {count}) as n".encode()
    )
    buffers(autoconn, "ticker()")
    assert buffers(autoconn, "ticker()") < 25 * count
