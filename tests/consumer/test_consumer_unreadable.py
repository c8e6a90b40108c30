"""Events that are not valid text in the database's encoding (pgque/wire/receiving.py)."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import pgque
from pgque import Consumer, Message, PgqueClient
from pgque.testing import Kit
from pgque.watching.browse import Browser
from tests.running import eventually, running

Encoded = Callable[[str], str]


@pytest.fixture(params=["SQL_ASCII", "WIN1252"])
def kit(request: pytest.FixtureRequest, encoded: Encoded) -> Iterator[Kit]:
    with Kit(encoded(request.param)) as kit:
        kit.queue("q", "c", max_retries=1)
        yield kit


def send_unreadable(kit: Kit) -> list[int]:
    """Send three events; byte 0x81 in the middle one is neither UTF-8 nor WIN1252."""
    first = kit.client.send("q", "før", type="t")
    row = kit.conn.execute("select pgque.send('q', 't', E'caf\\x81'::text)").fetchone()
    assert row is not None
    ids = [first, row[0], *kit.client.send_batch("q", "t", ["after", "été"])]
    kit.tick("q")
    return ids


@pytest.mark.parametrize("subconsumer", [None, "m"])
@pytest.mark.parametrize("max_messages", [1, 500])
def test_an_unreadable_event_becomes_a_dead_letter_and_its_neighbours_are_handled(
    kit: Kit, subconsumer: str | None, max_messages: int, caplog
):
    name = "c" if subconsumer is None else "group"
    if subconsumer is not None:
        kit.client.subscribe_subconsumer("q", "group", "m")
    kit.conn.execute("create table done (payload text)")
    options: dict[str, Any] = {"subconsumer": subconsumer, "max_messages": max_messages}
    consumer = Consumer(kit.dsn, queue="q", name=name, retry_after=0, **options)
    calls: list[str | None] = []

    @consumer.on("*")
    def handle(msg: Message, client: PgqueClient) -> None:
        calls.append(msg.payload)
        client.conn.execute("insert into done values (%s)", [msg.payload])

    ids = send_unreadable(kit)
    with running(consumer):
        eventually(lambda: kit.client.dead_letters("q"))
        eventually(lambda: len(calls) == 3)
    [dead] = kit.client.dead_letters("q")
    assert (dead.ev_id, dead.ev_retry, dead.ev_data) == (ids[1], 1, "caf\\x81")
    assert "payload has byte 0x81 at 3" in (dead.dl_reason or "")
    assert calls == ["før", "after", "été"]
    assert f"message {ids[1]}" in caplog.text
    done = kit.conn.execute("select payload from done order by payload").fetchall()
    assert sorted(row[0] for row in done) == sorted(calls)


def test_receive_names_an_unreadable_event_and_the_transaction_continues(kit: Kit):
    ids = send_unreadable(kit)
    with pgque.connect(kit.dsn) as client:
        with pytest.raises(pgque.PgqueUnreadableEvent, match=f"event {ids[1]} of batch") as caught:
            client.receive("q", "c")
        message = caught.value.message
        client.nack(message.batch_id, message, reason=str(caught.value))
        client.ack(message.batch_id)
        client.conn.commit()
    assert kit.client.receive("q", "c") == []


def test_an_unreadable_dead_letter_can_be_listed(kit: Kit):
    send_unreadable(kit)
    kit.client.set_queue_config("q", "max_retries", 0)
    with pytest.raises(pgque.PgqueUnreadableEvent) as caught:
        kit.client.receive("q", "c")
    message = caught.value.message
    kit.client.nack(message.batch_id, message, reason="no text")
    [dead] = kit.client.dead_letters("q")
    assert dead.ev_data == kit.client.dead_letter(dead.dl_id).ev_data == "caf\\x81"
    [letter] = Browser(kit.conn).dead_letters("q").rows
    assert letter.reason == "no text"
    assert len(Browser(kit.conn).messages("q").rows) == 4
    whole = Browser(kit.conn).dead_letter(dead.dl_id)
    assert whole is not None


def test_payloads_are_text_for_any_encoding_of_the_connection(encoded: Encoded):
    dsn = encoded("UTF8")
    with Kit(dsn) as kit:
        kit.queue("q", "c")
        kit.client.send("q", "3 €")
        kit.tick("q")
    with psycopg.connect(dsn, client_encoding="latin1") as conn:
        [message] = PgqueClient(conn).receive("q", "c")
        assert message.payload == "3 €"
