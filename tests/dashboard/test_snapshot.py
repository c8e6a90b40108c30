"""What is shown of queues and consumers (pgque/dashboard/snapshot.py, frames.py)."""

import pytest

from pgque.dashboard import frames
from pgque.dashboard.snapshot import Snapshotter, reading_connection
from tests.fix_engine import (
    ack,
    configure,
    nack,
    receive,
    receive_coop,
    send,
    send_many,
    subscribe,
    tick,
    value,
)


@pytest.fixture
def snapshotter(dsn):
    with reading_connection(dsn) as conn:
        yield Snapshotter(conn)


def consumers(view, queue):
    return {one["consumer"]: one for one in frames.one_queue(view, queue)["consumers"]}


def listed(view):
    overview = frames.overview(view)
    return {row[0]: dict(zip(overview["columns"], row, strict=True)) for row in overview["queues"]}


def test_in_flight_is_the_number_of_messages_in_the_open_batch(
    snapshotter, autoconn, queue, consumer
):
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    assert consumers(snapshotter.take(), queue)[consumer]["in_flight"] is None
    batch = receive(autoconn, queue, consumer, 4)
    assert consumers(snapshotter.take(), queue)[consumer]["in_flight"] == 4
    ack(autoconn, batch)
    assert consumers(snapshotter.take(), queue)[consumer]["in_flight"] is None
    receive(autoconn, queue, consumer)
    view = snapshotter.take()
    assert consumers(view, queue)[consumer]["in_flight"] == 6
    assert listed(view)[queue]["in_flight"] == 6


def test_latency_is_measured_from_the_tick_to_the_ack(snapshotter, autoconn, queue, consumer):
    assert consumers(snapshotter.take(), queue)[consumer]["latency"] is None
    send(autoconn, queue)
    number = tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    assert consumers(snapshotter.take(), queue)[consumer]["latency"] is None
    ack(autoconn, batch)
    took = value(
        autoconn,
        "select round(extract(epoch from sub_active - tick_time), 4)::float8 "
        "from pgque.subscription join pgque.tick on tick_queue = sub_queue where tick_id = %s",
        number,
    )
    view = snapshotter.take()
    assert consumers(view, queue)[consumer]["latency"] == pytest.approx(took, abs=0.0002)
    points = frames.one_queue(view, queue)["points"]["latency"]
    assert points == {consumer: pytest.approx(took, abs=0.0002)}


def test_latency_is_plotted_once_and_shown_in_the_table_until_the_next_ack(
    snapshotter, autoconn, queue, consumer
):
    snapshotter.take()
    send(autoconn, queue)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer))
    first = snapshotter.take()
    second = snapshotter.take()
    assert frames.overview(first)["points"]["latency"]["longest"] is not None
    assert frames.overview(second)["points"]["latency"]["longest"] is None
    assert consumers(second, queue)[consumer]["latency"] is not None


def test_a_seek_does_not_count_as_an_ack(snapshotter, autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    autoconn.execute("select pgque.seek(%s, %s, 1::bigint)", [queue, consumer])
    assert consumers(snapshotter.take(), queue)[consumer]["latency"] is None


def test_members_of_a_group_have_no_separate_position(snapshotter, autoconn, queue):
    subscribe_member(autoconn, queue, "crew", "one")
    subscribe_member(autoconn, queue, "crew", "two")
    snapshotter.take()
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    receive_coop(autoconn, queue, "crew", "one", 4)
    view = snapshotter.take()
    found = consumers(view, queue)
    assert found["crew"]["is_group"]
    assert found["crew.one"]["group"] == "crew"
    assert (found["crew.one"]["in_flight"], found["crew.two"]["in_flight"]) == (4, None)
    for figure in ("rate", "lag", "pending", "latency"):
        assert found["crew.one"][figure] is None
    assert found["crew"]["pending"] == 6
    row = listed(view)[queue]
    assert (row["consumers"], row["pending"], row["in_flight"]) == (1, 6, 4)
    assert [*frames.one_queue(view, queue)["points"]["lag"]] == ["crew"]


def subscribe_member(conn, queue, group, member):
    value(conn, "select pgque.subscribe_subconsumer(%s, %s, %s)", queue, group, member)


def test_states_of_queues_follow_their_events_and_consumers(snapshotter, autoconn, queue, consumer):
    def state() -> tuple[str, int]:
        row = listed(snapshotter.take())[queue]
        return row["state"], row["level"]

    def an_hour_passes(*tables: str) -> None:
        for table, column in zip(tables, ("tick_time", "ev_time"), strict=False):
            change = f"update pgque.{table} set {column} = {column} - interval '1 hour'"
            autoconn.execute(change.encode())

    assert state() == ("ok", 0)
    send(autoconn, queue)
    an_hour_passes("tick")
    assert state() == ("ok", 0)  # the event was sent a moment ago
    an_hour_passes("tick", "event_1")
    assert state() == ("no tick", 3)
    assert frames.overview(snapshotter.take())["totals"]["late"] == 1
    configure(autoconn, queue, ticker_paused=True)
    assert state() == ("paused", 2)
    configure(autoconn, queue, ticker_paused=False)
    tick(autoconn, queue)
    assert state() == ("ok", 0)
    autoconn.execute("update pgque.tick set tick_time = tick_time - interval '2 minutes'")
    assert state() == ("behind", 2)
    assert consumers(snapshotter.take(), queue)[consumer]["state"] == "behind"


def test_the_overview_has_totals_and_the_consumers_furthest_behind(
    snapshotter, autoconn, queue, consumer
):
    subscribe(autoconn, queue, "quick")
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, "quick")
    nack(autoconn, batch[0], "1 hour")
    ack(autoconn, batch)
    shown = frames.overview(snapshotter.take())
    assert shown["totals"] == {
        "queues": 1,
        "consumers": 2,
        "in_flight": 0,
        "retries": 1,
        "dead": 0,
        "late": 0,
    }
    assert [one["consumer"] for one in shown["slowest"]] == [consumer]


def test_the_overview_works_without_queues(snapshotter):
    shown = frames.overview(snapshotter.take())
    assert (shown["queues"], shown["columns"], shown["slowest"]) == ([], [], [])


def test_a_missing_queue_is_none(snapshotter, autoconn):
    assert frames.one_queue(snapshotter.take(), "nobody")["queue"] is None


def test_the_rates_of_all_queues_are_added_up(snapshotter, autoconn, queue, consumer):
    snapshotter.take()
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer))
    points = frames.overview(snapshotter.take())["points"]["rate"]
    assert points[""] == points["handled"] > 0
