"""Exceptions and results of handlers (pgque/wire/failures.py, pgque/consuming/handling.py)."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pgque
from pgque import Message, PgqueClient
from pgque.testing import Kit
from tests.fix_ordeal import BAD, Ordeal
from tests.running import eventually, running


class OddError(BaseException):
    pass


class MuteError(Exception):
    def __str__(self) -> str:
        raise OddError

    __repr__ = __str__


class MuteTypeError(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


def in_a_circle() -> Exception:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def caused_by_a_mute_one() -> Exception:
    error = ValueError("speaks")
    error.__cause__ = MuteError()
    return error


def with_a_bad_note() -> Exception:
    error = ValueError("noted")
    vars(error)["__notes__"] = [MuteError()]
    return error


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (asyncio.CancelledError, "CancelledError: "),
        (lambda: SystemExit(2), "SystemExit: 2"),
        (GeneratorExit, "GeneratorExit: "),
        (StopIteration, "StopIteration: "),
        (OddError, "OddError: "),
        (MuteError, "MuteError: (its text cannot be read: __str__ raised OddError)"),
        (MuteTypeError, "MuteTypeError: (its text cannot be read: __str__ raised TypeError)"),
        (lambda: ValueError("a\0b"), "ValueError: a\\x00b"),
        (lambda: ValueError("\ud800"), "ValueError: \\ud800"),
        (in_a_circle, "ValueError: first"),
        (caused_by_a_mute_one, "ValueError: speaks"),
        (with_a_bad_note, "ValueError: noted"),
    ],
)
def test_any_exception_of_a_handler_fails_its_message(
    ordeal: Ordeal, make: Callable[[], BaseException], reason: str, caplog, capfd
):
    def fault(msg: Message, client: PgqueClient) -> None:
        raise make()

    dead = ordeal.run(fault)
    assert dead.dl_reason == reason
    assert ordeal.calls.count(BAD) == 2
    assert f"handler failed on message {dead.ev_id}" in caplog.text
    assert "Logging error" not in capfd.readouterr().err


def test_a_very_long_text_is_cut_in_the_log_and_in_the_dead_letter(ordeal: Ordeal, caplog):
    def fault(msg: Message, client: PgqueClient) -> None:
        raise ValueError("x" * 20_000_000)

    dead = ordeal.run(fault)
    assert dead.dl_reason is not None
    assert dead.dl_reason.startswith("ValueError: xxx")
    assert dead.dl_reason.endswith("... (cut)")
    assert len(dead.dl_reason) == 10_000
    assert len(caplog.text) < 100_000


def test_sql_also_cuts_a_reason(client: PgqueClient, queue, consumer, autoconn):
    client.set_queue_config(queue, "max_retries", 0)
    for ask in (
        "select pgque.nack(%(b)s, row(%(m)s, null, null, null, null, null, null, null, null, null)"
        "::pgque.message, '0', repeat('é', 20000))",
        "select pgque.nack_many(%(b)s, array[%(m)s]::bigint[], '0', array[repeat('é', 20000)])",
        "select pgque.event_dead(%(b)s, %(m)s, repeat('é', 20000), now(), '1'::xid8, 0, 't', 'd')",
    ):
        client.send(queue, 1)
        client.ticker(queue)
        [message] = client.receive(queue, consumer)
        autoconn.execute(ask, {"b": message.batch_id, "m": message.msg_id})
        client.ack(message.batch_id)
    assert [len(dead.dl_reason or "") for dead in client.dead_letters(queue)] == [10_000] * 3


def test_characters_missing_from_the_databases_encoding_are_escaped(encoded):
    dsn = encoded("LATIN1")
    with Kit(dsn) as kit:
        kit.queue("q", "c", max_retries=0)
        consumer = pgque.Consumer(dsn, queue="q", name="c")

        @consumer.on("*")
        def fail(msg: Message) -> None:
            raise ValueError("é costs 3 € in 東京")

        kit.client.send("q", 1)
        kit.tick("q")
        with running(consumer):
            eventually(lambda: kit.client.dead_letters("q"))
        [dead] = kit.client.dead_letters("q")
        assert dead.dl_reason == "ValueError: é costs 3 \\u20ac in \\u6771\\u4eac"


def test_any_exception_of_an_observer_is_ignored(client, new, queue, caplog):
    class Bad(pgque.observers.Observer):
        def on_handled(self, batch: Any, message: Any, seconds: float, error: Any) -> None:
            raise asyncio.CancelledError

    got: list[Message] = []
    consumer = new()
    consumer.observe(Bad())
    consumer.on("*")(got.append)
    with running(consumer):
        client.send(queue, 1)
        eventually(lambda: got)
        eventually(lambda: "observer" in caplog.text)


def test_keyboard_interrupt_ends_the_consumer_without_counting_an_attempt(client, new, queue):
    calls: list[Message] = []
    consumer = new()

    @consumer.on("*")
    def interrupted(msg: Message, client: PgqueClient) -> None:
        calls.append(msg)
        raise KeyboardInterrupt

    client.send(queue, 1)
    client.ticker(queue)
    with pytest.raises(KeyboardInterrupt):
        consumer.start()
    [again] = client.receive(queue, consumer._name)
    assert (len(calls), again.retry_count) == (1, 0)


def test_system_exit_while_stopping_ends_the_consumer_without_counting_an_attempt(
    client, new, queue
):
    consumer = new()

    @consumer.on("*")
    def stopped(msg: Message) -> None:
        consumer.stop()
        raise SystemExit(0)

    client.send(queue, 1)
    client.ticker(queue)
    with pytest.raises(SystemExit):
        consumer.start()
    [again] = client.receive(queue, consumer._name)
    assert again.retry_count == 0


# Handlers whose body does not run


async def work(*anything: Any) -> None:
    raise AssertionError("nobody runs it")


def generator(*anything: Any) -> Iterator[None]:
    yield


async def async_generator(*anything: Any) -> Any:
    yield


class Awaitable:
    def __await__(self) -> Iterator[None]:
        yield


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("result", "named"),
    [
        (work, "coroutine"),
        (generator, "generator"),
        (async_generator, "async_generator"),
        (lambda *anything: Awaitable(), "Awaitable"),
    ],
)
@pytest.mark.parametrize("with_client", [True, False])
@pytest.mark.parametrize("model", [None, int])
def test_a_result_that_would_have_to_be_awaited_or_iterated_is_a_failure(
    client, new, queue, autoconn, result, named, with_client, model
):
    autoconn.execute("create table done (n int)")
    client.set_queue_config(queue, "max_retries", 0)
    consumer = new()
    if with_client:

        def handle(message: Any, client: PgqueClient) -> Any:
            client.conn.execute("insert into done values (1)")
            return result(message)

        consumer.on("*", model=model)(handle)
    else:
        consumer.on("*", model=model)(lambda message: result(message))
    client.send(queue, 1)
    client.ticker(queue)
    with running(consumer):
        eventually(lambda: client.dead_letters(queue))
    [dead] = client.dead_letters(queue)
    assert f"returned {named}, so its body did not run" in dead.dl_reason
    assert autoconn.execute("select count(*) from done").fetchone() == (0,)


def test_any_other_result_is_ignored(client, new, queue):
    got: list[Message] = []
    consumer = new()

    @consumer.on("*")
    def handle(msg: Message) -> dict[str, str]:
        got.append(msg)
        return {"ignored": "yes"}

    with running(consumer):
        client.send_batch(queue, "default", range(3))
        eventually(lambda: len(got) == 3)
    assert not client.dead_letters(queue)


def test_standing_by_is_logged_once(client, new, queue, caplog, monkeypatch):
    monkeypatch.setattr("pgque.consumer.STANDBY_PAUSE", 0.01)
    caplog.set_level(logging.INFO)
    first, second = new(poll_interval=0.01), new(poll_interval=0.01)
    got: list[int] = []

    def handle(msg: Message) -> None:
        time.sleep(0.02)
        got.append(msg.json())

    for consumer in (first, second):
        consumer.on("*")(handle)
    with running(first), running(second):
        for n in range(50):
            client.send(queue, n)
            client.ticker(queue)
            eventually(lambda n=n: len(got) > n)  # so that both are idle in between
    assert caplog.text.count("standing by") <= 2
