"""The bench's peers keep to their interface, and the workloads run on a tiny scale."""

import contextlib
import threading
import time

import pytest

from bench import peers
from bench.measure import Context, WorkloadFailed
from bench.old import old_transaction
from bench.paced import Board, Load, Session, lanes_for, percentile
from bench.workloads import horizon, latency, soak
from tests.running import PATIENCE

# Warnings of third-party packages are not ours to fix.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(params=["ours", *peers.NAMES])
def name(request):
    why = None if request.param == "ours" else peers.missing(request.param)
    if why:
        pytest.skip(why)
    return request.param


@pytest.fixture
def context(databases, dsn):
    """The context of a workload, in its smallest form."""
    made = []

    def new_database(name, with_pgque):
        assert not with_pgque
        made.append(databases.create())
        return made[-1]

    yield Context(
        dsn=dsn,
        quick=True,
        rounds=1,
        peers=["textbook"],
        progress=lambda text: None,
        new_database=new_database,
        tiny=True,
    )
    for other in made:
        databases.drop(other)


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@contextlib.contextmanager
def working(run):
    """Run a worker or a ticker in a thread until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_peer_handles_enqueued_events(name, empty_dsn):
    kind = peers.load(name)
    peer, worker = kind(empty_dsn), kind(empty_dsn)
    peer.set_up()
    sent = ["single", "Grüße"]
    handled = []
    with contextlib.ExitStack() as stack:
        if name == "ours":
            stack.enter_context(working(kind(empty_dsn).tick))
        stack.enter_context(working(lambda stop: worker.work(handled.append, stop)))
        for payload in sent:
            peer.enqueue(payload)
        if "bulk" not in peer.lacks:
            sent += [f"many {number}" for number in range(50)]
            peer.enqueue_many(sent[2:])
        assert wait_for(lambda: len(handled) >= len(sent))
    worker.tear_down()
    peer.tear_down()
    assert sorted(handled) == sorted(sent)


def test_a_peer_completes_a_cycle(name, empty_dsn):
    peer = peers.load(name)(empty_dsn)
    if "cycle" in peer.lacks:
        with pytest.raises(NotImplementedError, match="its API"):
            peer.cycle("one")
    else:
        peer.set_up()
        for number in range(3):
            peer.cycle(f"payload {number}")
    peer.tear_down()


def test_a_missing_feature_of_a_peer_is_refused(name, empty_dsn):
    peer = peers.load(name)(empty_dsn)
    assert set(peer.lacks) <= {"bulk", "cycle"}
    if "bulk" in peer.lacks:
        with pytest.raises(NotImplementedError):
            peer.enqueue_many(["one"])
    peer.tear_down()


@pytest.mark.parametrize("one", ["ours", "textbook"])
def test_a_session_loses_nothing(one, empty_dsn):
    with Session(one, empty_dsn, Board(3000), fastest=200) as session:
        load = session.send(200, 0.5)
        assert session.wait(60)
    assert load.missing() == load.twice() == 0
    assert len(load.delays()) == sum(1 for _ in load.numbers)
    assert min(load.delays()) > 0


def test_a_session_notices_that_its_worker_exited(empty_dsn):
    with Session("textbook", empty_dsn, Board(3000), fastest=200) as session:
        session._workers[0].terminate()
        session._workers[0].join()
        session.send(100, 0.05)
        with pytest.raises(WorkloadFailed, match="work process ended"):
            session.wait()


def test_a_session_notices_an_event_handled_twice(empty_dsn):
    with Session("textbook", empty_dsn, Board(3000), fastest=200) as session:
        load = session.send(100, 0.05)
        assert session.wait()
        session.board.handled(str(load.first))
        with pytest.raises(WorkloadFailed, match="1 events were handled twice"):
            session.wait()


def test_a_load_reports_missing_events_and_a_growing_delay():
    board = Board(10)
    for number in range(10):
        board.sent[number] = 1.0 + number / 10
        if number < 6:
            board.arrived[number] = board.sent[number] + 0.01
            board.times[number] = 1
    load = Load(board, 0, 10, rate=10, began=1.0, ended=2.0)
    assert load.missing() == 4
    assert load.falls_behind
    assert load.delays(until=0.25) == pytest.approx([10, 10, 10])
    assert load.curve(step=0.5) == [(0.5, pytest.approx(10)), (1.0, pytest.approx(10))]
    for number in range(6, 10):
        board.arrived[number] = board.sent[number] + 0.01
        board.times[number] = 1
    assert not load.falls_behind


def test_percentiles_of_small_and_large_samples():
    assert percentile([3, 1, 2], 0.99) == 3
    assert percentile(list(range(1000)), 0.99) == 990


def test_higher_rates_take_more_connections():
    assert lanes_for(1) == (1, 1)
    assert lanes_for(1000) < lanes_for(5000)


def test_a_url_contains_the_socket_and_its_user():
    url = peers.url("host=/tmp/a port=5432 user=me dbname=db")
    assert url == "postgresql:///db?user=me&host=%2Ftmp%2Fa&port=5432"


def test_an_old_transaction_has_the_requested_age(dsn):
    with old_transaction(dsn, 50):  # it asserts its own age
        pass


def test_the_latency_workload_measures_all_peers(context):
    rows = latency.measure_latency(context)
    assert {row.subject for row in rows} == {"pgque", "notify", "textbook"}
    assert {row.detail.get("rate") or row.detail.get("offered") for row in rows} >= {100}


def test_a_failing_peer_does_not_end_the_workload(context, monkeypatch):
    def fail(peer):
        raise RuntimeError("no")

    monkeypatch.setattr(peers.load("textbook"), "set_up", fail)
    rows = latency.measure_latency(context)
    assert [row.detail["lacks"] for row in rows if row.subject == "textbook"] == ["failed: no"]


def test_latency_of_a_single_consumer_is_workload_7(context):
    rows = latency.measure_alone(context)
    assert {row.workload for row in rows} == {7}


def test_latency_next_to_an_old_transaction_is_workload_11(context):
    rows = latency.measure_beside_old(context)
    assert [row.workload for row in rows] == [11, 11]


def test_the_horizon_workload_returns_curves(context):
    rows = horizon.measure_horizon(context)
    assert [row.subject for row in rows] == ["pgque", "pgque", "pgque", "textbook"]
    assert rows[0].detail["every event arrived"] == 60
    assert all(row.detail["curve"] for row in rows[2:])


def test_the_soak_workload_runs(context):
    rows = soak.measure_soak(context)
    assert rows[0].value == 0
    assert rows[0].detail["trouble"]
