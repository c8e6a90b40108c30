"""The information functions for monitoring (sql/info)."""

import pytest

from tests.fix_engine import (
    ack,
    column,
    configure,
    drain,
    receive,
    receive_coop,
    send,
    send_many,
    subscribe,
    tick,
    value,
)

QUEUE_COLUMNS = [
    "queue_name",
    "queue_ntables",
    "queue_cur_table",
    "queue_rotation_period",
    "queue_switch_time",
    "queue_external_ticker",
    "queue_ticker_paused",
    "queue_ticker_max_count",
    "queue_ticker_max_lag",
    "queue_ticker_idle_period",
    "ticker_lag",
    "ev_per_sec",
    "ev_new",
    "last_tick_id",
]
CONSUMER_COLUMNS = [
    "queue_name",
    "consumer_name",
    "lag",
    "last_seen",
    "last_tick",
    "current_batch",
    "next_tick",
    "pending_events",
]
BATCH_COLUMNS = [
    "queue_name",
    "consumer_name",
    "batch_start",
    "batch_end",
    "prev_tick_id",
    "tick_id",
    "lag",
    "seq_start",
    "seq_end",
]


def rows(conn, query, *parameters) -> tuple[list[str], list[dict]]:
    cursor = conn.execute(query.encode(), parameters)
    names = [column.name for column in cursor.description]
    return names, [dict(zip(names, row, strict=True)) for row in cursor]


def test_get_queue_info_returns_one_queue_or_all(autoconn):
    for name in ("b", "a"):
        value(autoconn, "select pgque.create_queue(%s)", name)
    for call, parameters, names in (
        ("get_queue_info()", [], ["a", "b"]),
        ("get_queue_info(null)", [], ["a", "b"]),
        ("get_queue_info(%s)", ["b"], ["b"]),
        ("get_queue_info(queue := %s)", ["a"], ["a"]),
    ):
        columns, found = rows(autoconn, f"select * from pgque.{call}", *parameters)
        assert columns == QUEUE_COLUMNS
        assert [row["queue_name"] for row in found] == names


def test_get_queue_info_counts_unticked_events_and_the_rate(autoconn, queue):
    send_many(autoconn, queue, 30)
    query = "select * from pgque.get_queue_info()"
    _, [row] = rows(autoconn, query)
    assert (row["ev_new"], row["last_tick_id"], row["queue_ntables"]) == (30, 1, 3)
    tick(autoconn, queue)
    _, [row] = rows(autoconn, query)
    assert (row["ev_new"], row["last_tick_id"]) == (0, 2)
    assert row["ev_per_sec"] > 0
    assert row["ticker_lag"].total_seconds() < 60
    autoconn.execute("update pgque.tick set tick_time = tick_time - interval '2 minutes'")
    send_many(autoconn, queue, 60)
    tick(autoconn, queue)
    _, [row] = rows(autoconn, query)
    assert row["ev_per_sec"] == 1


def test_p5_a_broken_queue_does_not_hide_the_others(autoconn, queue, consumer):
    value(autoconn, "select pgque.create_queue('bad')")
    subscribe(autoconn, "bad", consumer)
    autoconn.execute("drop sequence pgque.event_2_id_seq")
    assert column(autoconn, "select ev_new from pgque.get_queue_info()") == [None, 0]
    assert column(autoconn, "select pending_events from pgque.get_consumer_info()") == [None, 0]


def test_get_consumer_info_can_be_filtered_by_queue_and_consumer(autoconn, queue, consumer):
    value(autoconn, "select pgque.create_queue('a queue')")
    subscribe(autoconn, "a queue", consumer, "another")
    everything = [("a queue", "another"), ("a queue", consumer), (queue, consumer)]
    for call, expected in (
        ("()", everything),
        ("(null)", everything),
        ("(null, null)", everything),
        ("('a queue')", everything[:2]),
        ("('a queue', null)", everything[:2]),
        (f"(null, '{consumer}')", everything[1:]),
        (f"(queue := '{queue}', consumer := '{consumer}')", everything[2:]),
    ):
        columns, found = rows(autoconn, f"select * from pgque.get_consumer_info{call}")
        assert columns == CONSUMER_COLUMNS
        assert [(row["queue_name"], row["consumer_name"]) for row in found] == expected


def test_get_consumer_info_follows_the_life_of_a_batch(autoconn, queue, consumer):
    def info() -> dict:
        _, [row] = rows(autoconn, "select * from pgque.get_consumer_info()")
        return row

    idle = info()
    assert (idle["lag"].total_seconds(), idle["pending_events"], idle["last_tick"]) == (0, 0, 1)
    send_many(autoconn, queue, 10)
    assert info()["pending_events"] == 10
    assert info()["lag"].total_seconds() > 0
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 4)
    held = info()
    assert (held["current_batch"], held["next_tick"]) == (batch[0].batch_id, 2)
    ack(autoconn, batch)
    assert (info()["pending_events"], info()["current_batch"], info()["next_tick"]) == (
        6,
        None,
        None,
    )
    drain(autoconn, queue, consumer)
    done = info()
    assert (done["lag"].total_seconds(), done["pending_events"]) == (0, 0)
    assert done["last_tick"] == value(autoconn, "select max(tick_id) from pgque.tick")
    assert 0 <= done["last_seen"].total_seconds() < 60


def test_get_consumer_info_shows_the_batches_of_members(autoconn, queue):
    send_many(autoconn, queue, 4)
    tick(autoconn, queue)
    value(autoconn, "select pgque.register_subconsumer(%s, 'g', 'a')", queue)
    value(autoconn, "select pgque.seek(%s, 'g', 1)", queue)
    [first, *_] = receive_coop(autoconn, queue, "g", "a", 3)
    _, found = rows(autoconn, "select * from pgque.get_consumer_info(%s)", queue)
    by_name = {row["consumer_name"]: row for row in found}
    assert by_name["g"]["pending_events"] == 1
    assert by_name["g"]["current_batch"] is None
    assert by_name["g.a"]["current_batch"] == first.batch_id


def test_get_batch_info_shows_owner_and_range(autoconn, queue, consumer):
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 4)
    query = "select * from pgque.get_batch_info(batch_id := %s)"
    columns, [row] = rows(autoconn, query, batch[0].batch_id)
    assert columns == BATCH_COLUMNS
    assert (row["queue_name"], row["consumer_name"]) == (queue, consumer)
    assert (row["prev_tick_id"], row["tick_id"]) == (1, 2)
    assert (row["seq_start"], row["seq_end"]) == (0, 4)
    assert row["batch_start"] < row["batch_end"]
    ack(autoconn, batch)
    batch = receive(autoconn, queue, consumer)
    _, [row] = rows(autoconn, query, batch[0].batch_id)
    assert (row["seq_start"], row["seq_end"]) == (4, 10)


def test_subscription_shows_roles_and_positions(autoconn, queue, consumer):
    value(autoconn, "select pgque.register_subconsumer(%s, 'g', 'a')", queue)
    query = (
        "select co_name, sub_role, sub_last_tick, sub_batch, sub_next_tick "
        "from pgque.subscription join pgque.consumer on co_id = sub_consumer order by sub_id"
    )
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    assert autoconn.execute(query).fetchall() == [
        (consumer, "normal", 1, batch[0].batch_id, 2),
        ("g", "coop_main", 1, None, None),
        ("g.a", "coop_member", None, None, None),
    ]


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (
            "queue",
            "queue_id, queue_name, queue_ntables, queue_cur_table, queue_rotation_period, "
            "queue_switch_time, queue_external_ticker, queue_disable_insert, queue_ticker_paused, "
            "queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period, "
            "queue_data_pfx, queue_event_seq, queue_max_retries",
        ),
        ("consumer", "co_id, co_name"),
        ("tick", "tick_queue, tick_id, tick_time, tick_snapshot, tick_event_seq"),
        (
            "subscription",
            "sub_id, sub_queue, sub_consumer, sub_last_tick, sub_active, sub_batch, "
            "sub_next_tick, sub_role",
        ),
        (
            "retry_queue",
            "ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry, ev_type, "
            "ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4",
        ),
        (
            "dead_letter",
            "dl_id, dl_queue_id, dl_consumer_id, dl_time, dl_reason, ev_id, ev_time, ev_txid, "
            "ev_retry, ev_type, ev_data, ev_extra1, ev_extra2, ev_extra3, ev_extra4",
        ),
        ("config", "schema_version"),
        ("event_1", "ev_id, ev_time, ev_txid, ev_type, ev_data, ev_extra1, ev_extra2"),
        ("event_1_0", "ev_id"),
        ("event_1_1", "ev_id"),
        ("event_1_2", "ev_id"),
    ],
)
def test_the_public_tables_have_their_columns(shared, shared_queue, table, columns):
    shared.execute(f"select {columns} from pgque.{table}".encode())


def test_p7_figures_cost_the_same_with_many_ticks(autoconn, queue, consumer):
    def cost() -> int:
        plan = value(
            autoconn,
            "explain (analyze, buffers, format json) select * from pgque.get_queue_info()",
        )
        return plan[0]["Plan"]["Shared Hit Blocks"]

    configure(autoconn, queue, ticker_max_lag=None)
    send(autoconn, queue)
    tick(autoconn, queue)
    cost()
    before = cost()
    autoconn.execute(
        "insert into pgque.tick_0 select t.tick_queue, n, t.tick_time - interval '1 hour', "
        "t.tick_snapshot, t.tick_event_seq, t.tick_seq_before, t.tick_seq_after, t.tick_waiting, "
        "t.tick_floor from pgque.tick t, generate_series(3, 20000) as n where t.tick_id = 2"
    )
    assert cost() <= before + 20
