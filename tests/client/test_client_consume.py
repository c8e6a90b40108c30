"""The client receives, acks and nacks, alone and in groups (pgque/client.py)."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import pgque
from pgque import PgqueClient
from tests.client.conftest import Connect, message


def test_subscribe_and_unsubscribe_return_0_if_nothing_changed(
    client: PgqueClient, queue: str
) -> None:
    assert client.subscribe(queue, "c") == 1
    assert client.subscribe(queue, "c") == 0
    assert client.unsubscribe(queue, "c") == 1
    assert client.unsubscribe(queue, "c") == 0
    with pytest.raises(pgque.PgqueConsumerNotFound, match="Not subscriber to queue"):
        client.receive(queue, "c")


@pytest.mark.parametrize("max_messages", [0, -1, 2**31])
def test_max_messages_out_of_range_raises(
    client: PgqueClient, queue: str, consumer: str, max_messages: int
) -> None:
    with pytest.raises(pgque.PgqueInvalidArgument):
        client.receive(queue, consumer, max_messages)


def test_a_batch_can_be_received_in_parts(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send_batch(queue, "t", ["a", "b", "c"])
    client.conn.commit()
    tick()
    seen = []
    while messages := client.receive(queue, consumer, 2):
        seen.append([m.payload for m in messages])
        assert client.ack(messages[0].batch_id) == 1
        client.conn.commit()
    assert seen == [["a", "b"], ["c"]]


def test_merged_takes_several_windows(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    for payload in ("a", "b"):
        client.send(queue, payload)
        client.conn.commit()
        tick()
    messages = client.receive(queue, consumer, merged=True)
    assert [m.payload for m in messages] == ["a", "b"]
    assert len({m.batch_id for m in messages}) == 1


def test_merged_raises_busy_while_another_process_works(
    client: PgqueClient,
    connect: Connect,
    queue: str,
    consumer: str,
    tick: Callable[[], None],
) -> None:
    client.send(queue, "x")
    client.conn.commit()
    tick()
    assert client.receive(queue, consumer)
    with pytest.raises(pgque.PgqueBusy):
        PgqueClient(connect()).receive(queue, consumer, merged=True)


def test_ack_of_a_batch_that_is_not_open_returns_0_with_a_warning(client: PgqueClient) -> None:
    notices: list[str | None] = []
    client.conn.add_notice_handler(lambda notice: notices.append(notice.severity))
    assert client.ack(12345) == 0
    assert notices == ["WARNING"]


@pytest.mark.parametrize(
    "retry_after", [0, 0.001, timedelta(milliseconds=1), timedelta(0)], ids=str
)
def test_a_nacked_message_is_redelivered(
    client: PgqueClient,
    autoconn: psycopg.Connection[Any],
    queue: str,
    consumer: str,
    tick: Callable[[], None],
    retry_after: float,
) -> None:
    client.send_batch(queue, "t", ["good", "bad"])
    client.conn.commit()
    tick()
    good, bad = client.receive(queue, consumer)
    client.nack(bad.batch_id, bad, retry_after=retry_after)
    client.ack(good.batch_id)
    client.conn.commit()
    autoconn.execute("update pgque.retry_queue set ev_retry_after = now() - interval '1 second'")
    autoconn.execute("select pgque.maint_retry_events()")
    tick()
    (again,) = client.receive(queue, consumer)
    assert again.payload == "bad"
    assert again.msg_id == bad.msg_id
    assert again.created_at == bad.created_at
    assert again.retry_count == 1


def test_a_nacked_message_waits_for_retry_after(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send_batch(queue, "t", ["a", "b", "c"])
    client.conn.commit()
    tick()
    a, b, c = client.receive(queue, consumer)
    client.nack(a.batch_id, a)
    client.nack(b.batch_id, b, 1.5)
    client.nack(c.batch_id, c, timedelta(days=2))
    waits = client.conn.execute(
        "select extract(epoch from ev_retry_after - clock_timestamp())::float"
        " from pgque.retry_queue order by ev_id"
    ).fetchall()
    for (wait,), wanted in zip(waits, [60, 1.5, 2 * 86400], strict=True):
        assert wanted - 5 < wait <= wanted


def test_nack_errors_name_the_missing_batch_or_message(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive(queue, consumer)
    client.conn.commit()
    with pytest.raises(pgque.PgqueBatchNotFound, match="batch not found: 12345"):
        client.nack(12345, received)
    client.conn.rollback()
    with pytest.raises(pgque.PgqueMessageNotFound, match="msg_id 999 not found in batch"):
        client.nack(received.batch_id, message(999))


def test_nack_many_nacks_several_messages(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.set_queue_config(queue, "max_retries", 0)
    client.send_batch(queue, "t", ["a", "b", "c", "d"])
    client.conn.commit()
    tick()
    a, _, c, d = client.receive(queue, consumer)
    assert client.nack_many(a.batch_id, [a, c], 0, ["NUL \0, surrogate \ud800", None]) == 2
    assert client.nack_many(a.batch_id, (d,), timedelta(0)) == 1
    assert client.nack_many(a.batch_id, []) == 0
    assert client.ack(a.batch_id) == 1
    dead = {letter.ev_id: letter.dl_reason for letter in client.dead_letters(queue)}
    assert dead.keys() == {a.msg_id, c.msg_id, d.msg_id}
    assert dead[a.msg_id] == "NUL \\x00, surrogate \\ud800"


def test_nack_many_is_all_or_none(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send_batch(queue, "t", ["a", "b"])
    client.conn.commit()
    tick()
    a, b = client.receive(queue, consumer)
    for batch_id, messages, reasons, error in (
        (a.batch_id, [a, message(999)], None, pgque.PgqueMessageNotFound),
        (12345, [a], None, pgque.PgqueBatchNotFound),
        (a.batch_id, [a, b], ["only one"], pgque.PgqueInvalidArgument),
    ):
        with pytest.raises(error), client.conn.transaction():
            client.nack_many(batch_id, messages, 0, reasons)
    with pytest.raises(pgque.PgqueInvalidArgument, match="retry_after must be"):
        client.nack_many(a.batch_id, [a], float("nan"))
    with pytest.raises(pgque.PgqueInvalidArgument, match="reason must be a str"):
        client.nack(a.batch_id, a, reason=ValueError("boom"))
    assert client.conn.execute("select count(*) from pgque.retry_queue").fetchone() == (0,)


@pytest.mark.parametrize("retry_after", [float("nan"), float("inf"), 1e30, "soon", None])
def test_nack_refuses_an_invalid_interval(client: PgqueClient, retry_after: Any) -> None:
    with pytest.raises(pgque.PgqueInvalidArgument, match="retry_after must be"):
        client.nack(1, message(), retry_after)
    assert client.conn.info.transaction_status == TransactionStatus.IDLE


def test_a_reason_may_contain_any_text(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.set_queue_config(queue, "max_retries", 0)
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive(queue, consumer)
    client.nack(received.batch_id, received, reason="NUL \0, surrogate \ud800, é")
    (dead,) = client.dead_letters(queue)
    assert dead.dl_reason == "NUL \\x00, surrogate \\ud800, é"


def test_seek_moves_the_position(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    start = client.queue_info(queue)[0].last_tick_id
    assert start is not None
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive(queue, consumer)
    with pytest.raises(pgque.PgqueBatchOpen), client.conn.transaction():
        client.seek(queue, consumer, start)
    client.ack(received.batch_id)
    assert client.receive(queue, consumer) == []
    assert client.seek(queue, consumer, start) == start
    (again,) = client.receive(queue, consumer)
    assert again.msg_id == received.msg_id
    client.ack(again.batch_id)
    newest = client.seek(queue, consumer, datetime.now(timezone.utc) + timedelta(hours=1))
    assert newest == client.queue_info(queue)[0].last_tick_id
    for nowhere in (newest + 1000, datetime(2001, 1, 1, tzinfo=timezone.utc)):
        with pytest.raises(pgque.PgqueTickNotFound), client.conn.transaction():
            client.seek(queue, consumer, nowhere)
    with pytest.raises(pgque.PgqueInvalidArgument, match="time zone"):
        client.seek(queue, consumer, datetime(2026, 1, 1))


def test_a_snapshot_that_is_too_old_raises(
    client: PgqueClient,
    connect: Connect,
    queue: str,
    consumer: str,
    tick: Callable[[], None],
) -> None:
    old = PgqueClient(connect())
    old.conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    old.queue_info()
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive(queue, consumer)
    client.ack(received.batch_id)
    client.conn.commit()
    with pytest.raises(pgque.PgqueRetryable, match="again"):
        old.receive(queue, consumer)


# Cooperative consumers


def test_members_share_the_messages_of_a_group(
    client: PgqueClient, queue: str, tick: Callable[[], None]
) -> None:
    assert client.subscribe_subconsumer(queue, "group", "a") == 1
    assert client.subscribe_subconsumer(queue, "group", "a") == 0
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive_coop(queue, "group", "a", max_messages=10)
    client.conn.commit()
    assert client.receive_coop(queue, "group", "b", dead_interval=3600) == []
    assert client.touch_subconsumer(queue, "group", "a") >= 1
    client.conn.commit()
    (taken,) = client.receive_coop(queue, "group", "b", dead_interval=timedelta(0), merged=True)
    assert taken.msg_id == received.msg_id
    assert taken.batch_id != received.batch_id
    assert client.ack(received.batch_id) == 0
    with pytest.raises(pgque.PgqueBatchOpen), client.conn.transaction():
        client.unsubscribe_subconsumer(queue, "group", "b")
    assert client.unsubscribe_subconsumer(queue, "group", "b", batch_handling=1) == 1
    assert client.unsubscribe_subconsumer(queue, "group", "a") == 1


def test_invalid_cooperative_names_raise(client: PgqueClient, queue: str, consumer: str) -> None:
    with pytest.raises(pgque.PgqueNormalConsumer), client.conn.transaction():
        client.subscribe_subconsumer(queue, consumer, "a")
    assert client.subscribe_subconsumer(queue, consumer, "a", convert_normal=True) == 1
    with (
        pytest.raises(pgque.PgqueCooperativeConsumer, match="receive_coop"),
        client.conn.transaction(),
    ):
        client.receive(queue, consumer)
    with pytest.raises(pgque.PgqueInvalidArgument, match="dot"), client.conn.transaction():
        client.subscribe_subconsumer(queue, "group", "a.b")
    with pytest.raises(pgque.PgqueInvalidArgument, match="batch_handling"):
        client.unsubscribe_subconsumer(queue, consumer, "a", batch_handling=7)
