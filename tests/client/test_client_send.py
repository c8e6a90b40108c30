"""The client sends (pgque/client.py)."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

import pgque
from pgque import Event, PgqueClient
from tests.client.conftest import Connect


def test_a_sent_message_is_received(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    sent = [
        client.send(queue, "as it is"),
        client.send(queue, {"a": "é"}, type="created"),
        client.send(queue),
        client.send(queue, Event([1], "listed")),
        client.send(queue, "k", key="42", headers={"trace": "t"}),
    ]
    assert client.receive(queue, consumer) == []
    client.conn.commit()
    tick()
    messages = client.receive(queue, consumer)
    assert [m.msg_id for m in messages] == sent
    assert [(m.type, m.payload) for m in messages] == [
        ("default", "as it is"),
        ("created", '{"a":"é"}'),
        ("default", "null"),
        ("listed", "[1]"),
        ("default", "k"),
    ]
    assert [m.retry_count for m in messages] == [0] * 5
    assert len({m.batch_id for m in messages}) == 1
    assert messages[1].json() == {"a": "é"}
    assert messages[4].key == "42"
    assert messages[4].headers == {"trace": "t"}
    assert messages[0].key is None
    age = datetime.now(timezone.utc) - messages[0].created_at
    assert abs(age) < timedelta(minutes=5)
    assert client.ack(messages[0].batch_id) == 1
    client.conn.commit()
    assert client.receive(queue, consumer) == []


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_created_at_is_the_time_of_the_event_in_utc(
    autoconn: psycopg.Connection[Any],
    queue: str,
    consumer: str,
    tick: Callable[[], None],
    zone: str,
) -> None:
    client = PgqueClient(autoconn)
    client.conn.execute("select set_config('TimeZone', %s, false)", [zone])
    client.send(queue, "x")
    tick()
    (received,) = client.receive(queue, consumer)
    row = client.conn.execute(
        "select ev_time from pgque.get_batch_events(%s)", [received.batch_id]
    ).fetchone()
    assert row == (received.created_at,)
    assert received.created_at.tzinfo is timezone.utc


def test_a_send_is_part_of_the_transaction(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send(queue, "undone")
    client.conn.rollback()
    with client.conn.transaction(force_rollback=True):
        client.send(queue, "undone too")
    client.send(queue, "kept")
    client.conn.commit()
    tick()
    assert [m.payload for m in client.receive(queue, consumer)] == ["kept"]


def test_send_batch_returns_the_ids(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    payloads = ["a", None, {"b": 'c"\\'}, "", "NULL", "{1,2}", "é€😀"]
    ids = client.send_batch(queue, "many", iter(payloads))
    client.conn.commit()
    tick()
    messages = client.receive(queue, consumer)
    assert [m.msg_id for m in messages] == ids
    assert [m.payload for m in messages] == [
        "a", "null", '{"b":"c\\"\\\\"}', "", "NULL", "{1,2}", "é€😀",
    ]  # fmt: skip
    assert {m.type for m in messages} == {"many"}
    assert client.send_batch("no such queue", "many", []) == []


def test_an_event_and_a_conflicting_type_are_refused(client: PgqueClient, queue: str) -> None:
    assert client.send(queue, Event("x", "a"), type="a")
    with pytest.raises(pgque.PgqueInvalidArgument, match="'a'"):
        client.send(queue, Event("x", "a"), type="b")


@pytest.mark.parametrize("payload", ["\0", "\ud800", float("nan"), object()])
def test_a_bad_payload_leaves_the_connection_usable(
    client: PgqueClient, queue: str, payload: Any
) -> None:
    for send in (
        lambda: client.send(queue, payload),
        lambda: client.send(queue, Event(payload)),
        lambda: client.send_batch(queue, "t", ["good", payload]),
        lambda: client.send(queue, "x", headers={"h": payload}),
    ):
        with pytest.raises(pgque.PgquePayloadError):
            send()
        assert client.conn.info.transaction_status == TransactionStatus.IDLE
    assert client.send(queue, "x")


def test_names_that_cannot_be_encoded_are_refused(client: PgqueClient) -> None:
    for name in ("a\0b", "\ud800"):
        with pytest.raises(pgque.PgqueInvalidArgument):
            client.send(name, "x")


def test_a_character_missing_from_the_encoding_is_refused(connect: Connect, queue: str) -> None:
    client = PgqueClient(connect(client_encoding="latin1"))
    assert client.send(queue, "é")
    with pytest.raises(pgque.PgqueInvalidArgument, match="utf8"):
        client.send(queue, "€")
    assert client.send(queue, "é")


def test_the_encoding_can_change_between_two_sends(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    for encoding in ("utf8", "latin1", "utf8"):
        client.conn.execute("select set_config('client_encoding', %s, false)", [encoding])
        client.send(queue, "é")
    with pytest.raises(pgque.PgqueQueueNotFound), client.conn.transaction():
        client.send("nowhere", "é")
    client.send(queue, "é")
    with client.conn.pipeline():
        client.send(queue, "é")
    client.conn.commit()
    tick()
    assert [m.payload for m in client.receive(queue, consumer)] == ["é"] * 5


def test_threads_can_share_a_client(dsn: str, queue: str) -> None:
    with pgque.connect(dsn, autocommit=True) as client:
        sent: list[int] = []
        threads = [
            threading.Thread(target=lambda: sent.extend(client.send(queue, "x") for _ in range(50)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(sent)) == 200


@pytest.mark.parametrize(
    "options",
    [
        {"row_factory": dict_row},
        {"cursor_factory": psycopg.ClientCursor},
        {"cursor_factory": psycopg.RawCursor},
        {"prepare_threshold": None},
        {"prepare_threshold": 0},
    ],
)
def test_any_kind_of_psycopg_connection_works(
    connect: Connect,
    queue: str,
    consumer: str,
    tick: Callable[[], None],
    options: dict[str, Any],
) -> None:
    client = PgqueClient(connect(**options))
    client.send(queue, "a")
    client.send_batch(queue, "default", ["b"])
    client.conn.commit()
    tick()
    messages = client.receive(queue, consumer)
    assert [m.payload for m in messages] == ["a", "b"]
    client.nack(messages[0].batch_id, messages[0])
    assert client.ack(messages[0].batch_id) == 1


def test_a_send_to_an_unknown_queue_raises(client: PgqueClient) -> None:
    for call in (
        lambda: client.send("nowhere", "x"),
        lambda: client.send_batch("nowhere", "t", ["x"]),
        lambda: client.subscribe("nowhere", "c"),
        lambda: client.receive("nowhere", "c"),
        lambda: client.receive_coop("nowhere", "c", "s"),
    ):
        with pytest.raises(pgque.PgqueQueueNotFound, match="queue not found: nowhere") as caught:
            call()
        assert caught.value.sqlstate == "PQ001"
        assert isinstance(caught.value.__cause__, psycopg.Error)
        client.conn.rollback()


def test_a_client_remains_usable_after_an_error(client: PgqueClient, queue: str) -> None:
    client.send(queue, "before")
    with pytest.raises(pgque.PgqueQueueNotFound), client.conn.transaction():
        client.send("nowhere", "x")
    client.send(queue, "the savepoint kept the transaction")
    with pytest.raises(pgque.PgqueQueueNotFound):
        client.send("nowhere", "x")
    with pytest.raises(pgque.PgqueTransactionAborted, match="Roll back"):
        client.send(queue, "x")
    client.conn.rollback()
    assert client.send(queue, "usable again")


def test_a_send_to_a_write_disabled_queue_raises(client: PgqueClient, queue: str) -> None:
    client.conn.execute("update pgque.queue set queue_disable_insert = true")
    with pytest.raises(pgque.PgqueInsertDisallowed):
        client.send(queue, "x")
