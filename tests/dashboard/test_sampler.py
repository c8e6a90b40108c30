"""The thread that takes samples, and the streams that show them (sampler.py, stream.py)."""

import json
import logging
import threading
from types import SimpleNamespace

import pytest
from psycopg.conninfo import make_conninfo

from pgque.dashboard import sampler as sampler_module
from pgque.dashboard.sampler import Sampler
from tests.dashboard.conftest import NOWHERE
from tests.fix_engine import send, value
from tests.fix_pooler import directly
from tests.running import eventually


@pytest.fixture
def make():
    made = []

    def make(dsn, **options):
        made.append(Sampler(dsn, **{"every": 0.05, **options}))
        return made[-1]

    yield make
    for sampler in made:
        sampler.stop()


def threads():
    return [one for one in threading.enumerate() if one.name == "pgque-dashboard"]


def frames(answer):
    """The frames of a stream."""
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_sampling_starts_with_the_first_viewer_and_stops_some_time_after_the_last(
    make, dsn, monkeypatch
):
    sampler = make(dsn)
    assert sampler.state.number == 0
    with sampler.viewer():
        eventually(lambda: sampler.state.snapshot)
    number = sampler.state.number
    eventually(lambda: sampler.state.number > number)
    monkeypatch.setattr(sampler_module, "LINGER", 0.0)
    eventually(lambda: sampler._thread is None)
    with sampler.viewer():
        number = sampler.state.number
        eventually(lambda: sampler.state.number > number)


def test_sampling_can_continue_without_viewers(make, dsn, monkeypatch):
    monkeypatch.setattr(sampler_module, "LINGER", 0.0)
    sampler = make(dsn, always=True)
    sampler.start()
    eventually(lambda: sampler.state.number > 3)


@directly
def test_all_viewers_share_one_connection(make, dsn, autoconn):
    sampler = make(dsn)
    with sampler.viewer(), sampler.viewer(), sampler.viewer():
        eventually(lambda: sampler.state.number > 2)
        sessions = value(
            autoconn,
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid() "
            "and backend_type = 'client backend'",
        )
        assert sessions == 1
        assert sampler.viewers == 3


class Waits(threading.Event):
    """An event that records the requested timeouts and does not wait."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def wait(self, timeout=None):
        self.asked.append(round(timeout, 3))
        return super().wait(0)


def test_the_sampler_rests_if_samples_are_slow_but_not_after_one_slow_sample(
    make, dsn, monkeypatch
):
    clock, took = 0.0, iter([0.01, 20.0, 0.01])
    plain = sampler_module.Snapshotter.take

    def take(self):
        nonlocal clock
        clock += next(took, 2.0)
        return plain(self)

    monkeypatch.setattr(sampler_module.Snapshotter, "take", take)
    now = SimpleNamespace(monotonic=lambda: clock, time=lambda: clock)
    monkeypatch.setattr(sampler_module, "time", now)
    sampler = make(dsn, every=1.0)
    waits = sampler._stop = Waits()
    with sampler.viewer():
        eventually(lambda: len(waits.asked) >= 6)
    assert waits.asked[:6] == [0.99, 0.09, 0.99, 0.09, 18.0, 18.0]


def test_stop_ends_the_thread(make, dsn):
    before = len(threads())
    sampler = make(dsn, always=True)
    sampler.start()
    sampler.start()
    assert len(threads()) == before + 1
    sampler.stop()
    assert len(threads()) == before


@directly
def test_a_lost_server_is_reported_and_used_again_when_it_returns(make, dsn, closed, caplog):
    caplog.set_level(logging.WARNING, "pgque.dashboard")
    sampler = make(dsn)
    with sampler.viewer():
        eventually(lambda: sampler.state.snapshot)
        closed(True)
        try:
            eventually(lambda: sampler.state.error)
            since = sampler.state.since
            number = sampler.state.number
            eventually(lambda: sampler.state.number > number)
            assert sampler.state.since == since
            _, frame = sampler.encoded(None)
            found = json.loads(frame)
            assert (found["state"], found["since"]) == ("lost", since)
            assert "not currently accepting connections" in found["error"]
        finally:
            closed(False)
        eventually(lambda: sampler.state.snapshot)
    assert len([one for one in caplog.records if one.name == "pgque.dashboard"]) == 1


def test_a_missing_server_schema_or_right_is_reported(make, empty_dsn, dsn, new_role):
    words = {
        NOWHERE: "/nowhere",
        empty_dsn: "pgque install",
        make_conninfo(dsn, user=new_role()): "pgque_reader",
    }
    for bad, word in words.items():
        sampler = make(bad)
        sampler.start()
        eventually(lambda sampler=sampler: sampler.state.error)
        assert word in sampler.state.error


def test_an_internal_error_does_not_end_the_sampler(make, dsn, monkeypatch, caplog):
    monkeypatch.setattr("pgque.dashboard.frames.all_points", lambda view: 1 / 0)
    sampler = make(dsn)
    sampler.start()
    eventually(lambda: sampler.state.error == "division by zero")
    monkeypatch.undo()
    eventually(lambda: sampler.state.snapshot)


def test_a_frame_is_encoded_once_for_all_viewers(make, dsn, monkeypatch):
    sampler = make(dsn)
    sampler.start()
    eventually(lambda: sampler.state.snapshot)
    sampler.stop()
    assert sampler.encoded(None)[1] is sampler.encoded(None)[1]
    assert sampler.encoded("q")[1] is not sampler.encoded(None)[1]


def test_a_stream_sends_new_figures(serve, autoconn, queue):
    with (
        serve().client() as client,
        client.stream("GET", "/api/stream", params={"queue": queue}) as answer,
    ):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        shown = (frame["queue"]["sent"] for frame in frames(answer) if frame["state"] == "live")
        assert next(shown) == 0
        send(autoconn, queue)
        assert next(sent for sent in shown if sent) == 1


def test_a_client_that_disconnects_is_no_longer_a_viewer(serve):
    served = serve()
    sampler = served.app.state.context.sampler
    with served.client() as client:
        with client.stream("GET", "/api/stream") as answer:
            shown = frames(answer)
            next(shown)
            assert sampler.viewers == 1
        eventually(lambda: sampler.viewers == 0)


def test_a_stream_ends_after_its_time_so_that_a_server_can_stop(serve):
    with (
        serve(stream_seconds=0.3).client() as client,
        client.stream("GET", "/api/stream") as answer,
    ):
        assert [line for line in answer.iter_lines() if line.startswith("data: ")]


def test_streams_end_when_the_server_stops(serve):
    served = serve(stream_seconds=600)
    context = served.app.state.context
    with served.client() as client, client.stream("GET", "/api/stream") as answer:
        shown = frames(answer)
        next(shown)
        context.streams.close()
        eventually(lambda: context.sampler.viewers == 0)


def test_the_history_is_available_to_later_viewers(serve, autoconn, queue, consumer):
    served = serve()
    sampler = served.app.state.context.sampler
    eventually(lambda: sampler.state.number > 3)
    with served.client() as client:
        overview = client.get("/api/history").json()
        assert len(overview["times"]) == len(overview["plots"]["rate"][""]) >= 1
        found = client.get("/api/history", params={"queue": queue}).json()
        assert [*found["plots"]["lag"]] == [consumer]
