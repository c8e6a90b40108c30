"""Observers: what a consumer reports about batches and messages (pgque/observers.py)."""

import time

import pytest

import pgque
from pgque import Consumer, Message, PgqueClient
from pgque.errors import PgqueInvalidArgument
from pgque.message import sent_at
from pgque.observers import Batch, Observer, _ServerClock
from tests.fix_engine import log_of, value
from tests.running import eventually, running


class Diary(Observer):
    """Records every call."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.told: list[tuple] = []

    def on_batch(self, batch: Batch) -> None:
        self.told.append(("batch", batch.queue, batch.consumer, batch.subconsumer))

    def on_handling(self, batch: Batch, message: Message, delay: float) -> None:
        self.told.append(("handling", message.payload, delay))

    def on_handled(
        self, batch: Batch, message: Message, seconds: float, error: BaseException | None
    ) -> None:
        assert message in batch.messages
        assert message.batch_id == batch.batch_id
        self.told.append(("handled", message.payload, seconds, error))

    def of(self, what: str) -> list[tuple]:
        return [told[1:] for told in self.told if told[0] == what]


def test_batches_and_messages_are_reported_in_order(client, new, queue, consumer):
    client.send_batch(queue, "default", ["a", "b"])
    one = new()
    diary = Diary()
    one.observe(diary)
    one.on("default")(lambda msg: diary.told.append(("handler", msg.payload)))
    with running(one):
        eventually(lambda: len(diary.told) == 7)
    assert diary.told[0] == ("batch", queue, consumer, None)
    steps = [(told[0], told[1]) for told in diary.told[1:]]
    calls = ["handling", "handler", "handled"]
    assert steps == [(call, payload) for payload in "ab" for call in calls]


def test_an_exception_of_a_handler_is_reported(client, new, queue):
    one = new()
    diary = Diary()
    one.observe(diary)
    error = ValueError("too much")

    @one.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        if msg.retry_count == 0:
            raise error

    with running(one):
        client.send(queue, "x")
        eventually(lambda: len(diary.of("handled")) == 2)
    assert [told[2] for told in diary.of("handled")] == [error, None]


@pytest.mark.parametrize(("policy", "kind"), [("nack", LookupError), ("ack", type(None))])
def test_a_message_without_a_handler_is_reported(client, new, queue, policy, kind):
    one = new(unknown_handler_policy=policy, retry_after=60)
    diary = Diary()
    one.observe(diary)
    one.on("known")(print)
    with running(one):
        client.send(queue, "x", type="unknown")
        eventually(lambda: diary.of("handled"))
    [(_, _, error)] = diary.of("handled")
    assert isinstance(error, kind)


def test_a_member_reports_its_name(dsn, queue, autoconn):
    one = Consumer(dsn, queue=queue, name="group", subconsumer="first")
    diary = Diary()
    one.observe(diary)
    one.on("default")(lambda msg: None)
    with running(one), pgque.connect(dsn, autocommit=True) as client:
        eventually(lambda: client.consumer_info(queue))
        client.send(queue, "x")
        eventually(lambda: diary.of("handled"))
    assert diary.of("batch") == [(queue, "group", "first")]


def test_an_observer_that_raises_is_logged_and_otherwise_ignored(client, new, queue, caplog):
    class Broken(Observer):
        def on_batch(self, batch):
            raise RuntimeError("on_batch")

        def on_handling(self, batch, message, delay):
            raise RuntimeError("on_handling")

        def on_handled(self, batch, message, seconds, error):
            raise RuntimeError("on_handled")

    one = new()
    diary = Diary()
    one.observe(Broken())
    one.observe(diary)
    one.on("default")(lambda msg: None)
    with running(one):
        client.send(queue, "x")
        eventually(lambda: diary.of("handled"))
        eventually(lambda: client.consumer_info(queue)[0].pending_events == 0)
    said = [r for r in caplog.records if r.name == "pgque.observers"]
    assert [str(r.exc_info[1]) for r in said] == ["on_batch", "on_handling", "on_handled"]
    assert "Broken.on_batch" in said[0].getMessage()


def test_observers_are_nested_first_in_last_out(client, new, queue):
    told: list[str] = []

    class Named(Observer):
        def __init__(self, name):
            self.name = name

        def on_handling(self, batch, message, delay):
            told.append(f"{self.name} begins")

        def on_handled(self, batch, message, seconds, error):
            told.append(f"{self.name} ends")

    one = new()
    one.observe(Named("outer"))
    one.observe(Named("inner"))
    one.on("default")(lambda msg: None)
    with running(one):
        client.send(queue, "x")
        eventually(lambda: len(told) == 4)
    assert told == ["outer begins", "inner begins", "inner ends", "outer ends"]


def test_the_delay_uses_the_servers_clock_regardless_of_the_clients(
    client, new, queue, autoconn, monkeypatch
):
    one = new()
    diary = Diary()
    one.observe(diary)
    one.on("default")(lambda msg: None)
    client.send(queue, "x")
    log = log_of(autoconn, queue)
    passed = value(
        autoconn, f"select extract(epoch from clock_timestamp() - ev_time)::float8 from {log}"
    )
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() + 86_400)
    with running(one):
        eventually(lambda: diary.of("handled"))
    [(_, delay)] = diary.of("handling")
    # The estimate of the server's time may be off by half a round trip.
    assert passed - 0.5 < delay < 3_600


def test_the_servers_time_is_asked_once_a_minute(autoconn, monkeypatch):
    now = time.perf_counter()
    monkeypatch.setattr("pgque.observers.perf_counter", lambda: now)
    clock = _ServerClock(autoconn)
    clock.look()
    first = clock.ahead
    clock.look()
    now += 59
    clock.look()
    assert clock.ahead == first
    now += 2
    clock.look()
    assert clock.ahead < first - 30


def test_sent_at_is_created_at(client, queue, consumer):
    client.send(queue, "x")
    client.ticker(queue)
    [message] = client.receive(queue, consumer)
    quick = sent_at(message)
    assert quick == pytest.approx(message.created_at.timestamp(), abs=1e-5)
    assert sent_at(message) == pytest.approx(quick, abs=1e-5)


def test_an_object_that_is_not_an_observer_is_refused(new):
    with pytest.raises(PgqueInvalidArgument, match="Observer"):
        new().observe(print)


def test_an_error_that_ends_the_consumer_is_reported(client, new, queue):
    one = new()
    diary = Diary()
    one.observe(diary)

    @one.on("default")
    def handle(msg: Message) -> None:
        raise KeyboardInterrupt

    client.send(queue, "x")
    with pytest.raises(KeyboardInterrupt):
        one.start()
    [(_, _, error)] = diary.of("handled")
    assert isinstance(error, KeyboardInterrupt)
