"""The client's calls for queues, ticks, information and dead letters."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

import pgque
from pgque import PgqueClient

Connect = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def client(autoconn: psycopg.Connection[Any]) -> PgqueClient:
    """A client in autocommit: each call is a separate transaction."""
    return PgqueClient(autoconn)


@pytest.fixture
def bury(client: PgqueClient, queue: str, consumer: str) -> Callable[..., None]:
    """Make dead letters with the given payloads."""
    client.set_queue_config(queue, "max_retries", 0)

    def bury(*payloads: str) -> None:
        for payload in payloads:
            client.send(queue, payload, type="t", key="k", headers={"h": 1})
        client.force_next_tick(queue)
        client.ticker(queue)
        messages = client.receive(queue, consumer)
        for message in messages:
            client.nack(message.batch_id, message, reason=f"why {message.payload}")
        client.ack(messages[0].batch_id)

    return bury


def test_a_queue_can_be_created_and_dropped(client: PgqueClient) -> None:
    assert client.create_queue("q") == 1
    assert client.create_queue("q") == 0
    client.subscribe("q", "c")
    with pytest.raises(pgque.PgqueQueueInUse, match="consumers still attached"):
        client.drop_queue("q")
    assert client.drop_queue("q", force=True) == 1
    with pytest.raises(pgque.PgqueQueueNotFound):
        client.drop_queue("q")


def test_create_queue_applies_its_settings(client: PgqueClient) -> None:
    settings = {
        "max_retries": 2,
        "ticker_max_lag": timedelta(seconds=1.5),
        "ticker_paused": True,
        "rotation_period": "3 hours",
        "ticker_max_count": None,
    }
    assert client.create_queue("q", settings) == 1
    [info] = client.queue_info("q")
    assert info.queue_ticker_max_lag == timedelta(seconds=1.5)
    assert info.queue_rotation_period == timedelta(hours=3)
    assert info.queue_ticker_paused
    assert info.queue_ticker_max_count == 500
    assert client.create_queue("q", {"ticker_paused": False}) == 0
    assert client.queue_info("q")[0].queue_ticker_paused
    assert client.create_queue("r", {}) == 1
    with pytest.raises(pgque.PgqueInvalidArgument, match="unknown queue setting: colour"):
        client.create_queue("s", {"colour": "red"})
    for wrong in ({"max\0retries": 1}, {"max_retries": "\udc80"}, ["max_retries"], "max_retries"):
        with pytest.raises(pgque.PgqueInvalidArgument):
            client.create_queue("s", wrong)
    assert [info.queue_name for info in client.queue_info()] == ["q", "r"]


def test_names_of_queues_are_checked(client: PgqueClient) -> None:
    assert client.create_queue("é" * 28) == 1
    with pytest.raises(pgque.PgqueInvalidArgument, match=r"too long: 58 bytes \(max 57\)"):
        client.create_queue("é" * 29)
    with pytest.raises(pgque.PgqueInvalidArgument, match="empty"):
        client.create_queue("")


def test_settings_are_stored(client: PgqueClient, queue: str) -> None:
    assert client.set_queue_config(queue, "ticker_max_count", 7) == 1
    client.set_queue_config(queue, "ticker_max_lag", timedelta(milliseconds=1500))
    client.set_queue_config(queue, "rotation_period", "3 hours")
    client.set_queue_config(queue, "ticker_paused", True)
    (info,) = client.queue_info(queue)
    assert info.queue_ticker_max_count == 7
    assert info.queue_ticker_max_lag == timedelta(milliseconds=1500)
    assert info.queue_rotation_period == timedelta(hours=3)
    assert info.queue_ticker_paused is True
    client.set_queue_config(queue, "ticker_paused", None)
    assert client.queue_info(queue)[0].queue_ticker_paused is False


@pytest.mark.parametrize(
    ("param", "value"),
    [("nonsense", 1), ("max_retries", -1), ("ticker_max_count", "many"), ("ticker_max_lag", "-1s")],
)
def test_bad_settings_raise(client: PgqueClient, queue: str, param: str, value: Any) -> None:
    before = client.queue_info(queue)[0][:10]
    with pytest.raises(pgque.PgqueInvalidArgument, match=param):
        client.set_queue_config(queue, param, value)
    assert client.queue_info(queue)[0][:10] == before


def test_ticks_are_created_on_request(client: PgqueClient, queue: str) -> None:
    first = client.force_next_tick(queue)
    tick = client.ticker(queue)
    assert first is not None
    assert tick == first + 1
    assert client.ticker(queue) is None
    with pytest.warns(DeprecationWarning, match="force_next_tick"):
        assert client.force_tick(queue) == tick
    assert client.ticker_all() == 1
    assert client.ticker_all() == 0


def test_a_paused_queue_is_not_ticked(client: PgqueClient, queue: str) -> None:
    client.set_queue_config(queue, "ticker_paused", True)
    with pytest.raises(pgque.PgqueTickerStopped, match="Ticker has been paused for this queue"):
        client.ticker(queue)
    with pytest.raises(pgque.PgqueQueueNotFound):
        client.ticker("nowhere")


def test_a_tick_in_an_old_snapshot_raises(connect: Connect, queue: str) -> None:
    conn = connect()
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with pytest.raises(pgque.PgqueIsolationError, match="READ COMMITTED"):
        PgqueClient(conn).ticker(queue)


def test_queue_info_describes_the_queue(client: PgqueClient, queue: str) -> None:
    client.create_queue("another")
    client.send(queue, "x")
    assert [info.queue_name for info in client.queue_info()] == ["another", queue]
    (info,) = client.queue_info(queue)
    assert info.queue_ntables == 3
    assert isinstance(info.queue_switch_time, datetime)
    assert info.ticker_lag is not None
    assert info.ticker_lag >= timedelta(0)
    assert info.ev_new == 1
    with pytest.raises(pgque.PgqueQueueNotFound):
        client.queue_info("nowhere")


def test_consumer_info_describes_the_consumer(
    client: PgqueClient, queue: str, consumer: str
) -> None:
    client.subscribe(queue, "zoe")
    client.send_batch(queue, "t", ["a", "b"])
    client.force_next_tick(queue)
    tick = client.ticker(queue)
    messages = client.receive(queue, consumer)
    assert [info.consumer_name for info in client.consumer_info()] == [consumer, "zoe"]
    assert len(client.consumer_info(queue)) == 2
    (info,) = client.consumer_info(queue, consumer)
    assert info.current_batch == messages[0].batch_id
    assert info.next_tick == tick
    assert info.pending_events == 2
    assert info.last_seen is not None
    assert info.last_seen >= timedelta(0)
    with pytest.raises(pgque.PgqueConsumerNotFound):
        client.consumer_info(queue, "nobody")
    with pytest.raises(pgque.PgqueQueueNotFound):
        client.consumer_info("nowhere")


def test_dead_letters_are_listed(
    client: PgqueClient, queue: str, consumer: str, bury: Callable[..., None]
) -> None:
    assert client.dead_letters(queue) == []
    bury("a", "b", "c")
    letters = client.dead_letters(queue, 2)
    assert [letter.ev_data for letter in letters] == ["c", "b"]
    letter = letters[0]
    assert letter.consumer_name == consumer
    assert letter.dl_reason == "why c"
    assert letter.ev_type == "t"
    assert letter.ev_retry == 0
    assert letter.ev_extra1 == "k"
    assert letter.ev_extra2 == '{"h":1}'
    assert isinstance(letter.ev_txid, int)
    assert isinstance(letter.dl_time, datetime)
    with pytest.raises(pgque.PgqueInvalidArgument):
        client.dead_letters(queue, -1)
    with pytest.raises(pgque.PgqueQueueNotFound):
        client.dead_letters("nowhere")


def test_a_dead_letter_can_be_replayed(
    client: PgqueClient, queue: str, bury: Callable[..., None]
) -> None:
    bury("a")
    (letter,) = client.dead_letters(queue)
    assert client.replay(letter.dl_id) > letter.ev_id
    assert client.dead_letters(queue) == []
    with pytest.raises(pgque.PgqueDeadLetterNotFound, match="dead letter entry not found"):
        client.replay(letter.dl_id)


def test_all_dead_letters_can_be_replayed(
    client: PgqueClient, queue: str, bury: Callable[..., None]
) -> None:
    bury("a", "b")
    client.conn.execute("update pgque.queue set queue_disable_insert = true")
    replayed, failed, first_error = client.replay_all(queue)
    assert (replayed, failed) == (0, 2)
    assert first_error is not None
    assert "disallowed" in first_error
    client.conn.execute("update pgque.queue set queue_disable_insert = false")
    assert client.replay_all(queue) == pgque.ReplayResult(2, 0, None)
    assert client.replay_all(queue).replayed == 0


def test_dead_letters_can_be_purged(
    client: PgqueClient, queue: str, bury: Callable[..., None]
) -> None:
    bury("a", "b")
    assert client.purge(queue) == 0
    assert client.purge(queue, 3600.5) == 0
    assert client.purge(queue, timedelta(0)) == 2
    with pytest.raises(pgque.PgqueInvalidArgument, match="older_than"):
        client.purge(queue, "yesterday")  # type: ignore[arg-type]
