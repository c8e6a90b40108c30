"""The three consumers of the demo. Their handlers' writes commit together with the ack."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Final

from psycopg.types.json import Json

from pgque.client import PgqueClient, connect
from pgque.consumer import Consumer
from pgque.demo.flights import CANCELLED, DEPARTED
from pgque.demo.tables import GROUP, QUEUE
from pgque.message import Message

RETRY_AFTER: Final = 0.5
DEAD_INTERVAL: Final = timedelta(seconds=1.5)
HALF_WAY: Final = (4, 1030)
"""Day and scheduled time of the flight in the middle of the week, as hhmm."""


class CancelledFlightError(Exception):
    """The flight was cancelled."""


class Notes:
    """Notes for the demo's main process. They use a separate connection and commit at once."""

    def __init__(self, dsn: str, member: str) -> None:
        self._conn = connect(dsn, autocommit=True).conn
        self._member = member

    def write(self, kind: str, **detail: object) -> None:
        """Write one note."""
        self._conn.execute(
            "insert into pgque_demo.note (member, kind, detail) values (%s, %s, %s)",
            (self._member, kind, Json(detail)),
        )


def make_delays(dsn: str) -> Consumer:
    """Return the consumer that sums up departures and delays per carrier."""
    consumer = Consumer(dsn, queue=QUEUE, name="delays")

    @consumer.on(DEPARTED)
    def add(message: Message, client: PgqueClient) -> None:
        flight = message.json()
        client.conn.execute(
            """
            insert into pgque_demo.delays as d (carrier, departures, minutes)
            values (%s, 1, %s)
            on conflict (carrier) do update
            set departures = d.departures + 1, minutes = d.minutes + excluded.minutes
            """,
            (flight["carrier"], flight["dep_delay"]),
        )
        _record(client, "delays", "delays", message)

    @consumer.on(CANCELLED)
    def pass_over(message: Message, client: PgqueClient) -> None:
        _record(client, "delays", "delays", message)

    return consumer


def make_gates(dsn: str, member: str, *, to_be_killed: bool) -> Consumer:
    """Return a member of the group that counts each flight at its airport."""
    consumer = Consumer(
        dsn, queue=QUEUE, name=GROUP, subconsumer=member, dead_interval=DEAD_INTERVAL
    )
    halt = Halt(Notes(dsn, member)) if to_be_killed else None

    @consumer.on("*")
    def book(message: Message, client: PgqueClient) -> None:
        flight = message.json()
        client.conn.execute(
            "insert into pgque_demo.gates (airport, day, flight) values (%s, %s, %s)",
            (flight["origin"], flight["day"], flight["id"]),
        )
        _record(client, GROUP, member, message)
        if halt is not None:
            halt.after(message)

    return consumer


class Halt:
    """Stops a member halfway, in the middle of a batch, so that the kill interrupts that batch."""

    PATIENCE = 25
    """After this many messages, accept a batch of one: at low rates there are no others."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._batch_id = 0
        self._in_hand: list[str] = []
        self._seen = 0
        self._halted = False

    def after(self, message: Message) -> None:
        """Count a handled message. At the chosen one, write a note and wait for the kill."""
        if message.batch_id != self._batch_id:
            self._batch_id = message.batch_id
            self._in_hand = []
        flight = message.json()
        self._in_hand.append(flight["id"])
        if self._halted or (flight["day"], flight["sched_dep_time"]) < HALF_WAY:
            return
        self._seen += 1
        if len(self._in_hand) > 1 or self._seen > self.PATIENCE:
            self._halted = True
            self._notes.write("halted", batch_id=self._batch_id, flights=self._in_hand)
            time.sleep(20)


def make_audit(dsn: str) -> Consumer:
    """Return the consumer that fails on cancelled flights. They end as dead letters."""
    consumer = Consumer(dsn, queue=QUEUE, name="audit", retry_after=RETRY_AFTER)
    notes = Notes(dsn, "audit")
    logging.getLogger("pgque.consumer").addFilter(_is_news)

    @consumer.on(DEPARTED)
    def accept(message: Message, client: PgqueClient) -> None:
        _record(client, "audit", "audit", message)

    @consumer.on(CANCELLED)
    def refuse(message: Message) -> None:
        flight = message.json()["id"]
        notes.write("refused", flight=flight, retry=message.retry_count)
        raise CancelledFlightError(f"{flight} was cancelled")

    return consumer


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] is CancelledFlightError)


def _record(client: PgqueClient, consumer: str, member: str, message: Message) -> None:
    """Record a delivery. Its latency is measured with the server's clock alone."""
    client.conn.execute(
        """
        insert into pgque_demo.delivery (consumer, member, flight, latency)
        values (%s, %s, %s, extract(epoch from clock_timestamp() - %s))
        """,
        (consumer, member, message.json()["id"], message.created_at),
    )
