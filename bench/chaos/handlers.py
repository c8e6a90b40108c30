"""The consumers: `pgque.Consumer` as it is, with a handler that writes down what it does."""

from __future__ import annotations

import time

import pgque
from bench.chaos.journal import Journal
from bench.chaos.tables import DEAD_INTERVAL, HANDLERS, QUEUE, RETRY_AFTER

WORK = 0.002
"""Seconds that a group's handler takes beside the database, so that it can be hit at work."""
MAX_MESSAGES = 50
"""A batch that takes longer than it is from one fault to the next would never be done."""
_EFFECT = (
    "insert into chaos_effect (consumer, batch, message, retry, key) values (%s, %s, %s, %s, %s)"
)


class PoisonError(Exception):
    """No handler takes this message, ever."""


def make_consumer(dsn: str, role: str, journal: Journal) -> pgque.Consumer:
    """Make the consumer of a role, with its one handler."""
    name, member = HANDLERS[role]
    consumer = pgque.Consumer(
        dsn,
        queue=QUEUE,
        name=name,
        subconsumer=member,
        dead_interval=None if member is None else DEAD_INTERVAL,
        retry_after=RETRY_AFTER,
        max_messages=MAX_MESSAGES,
    )

    @consumer.on("*")
    def handle(message: pgque.Message, client: pgque.PgqueClient) -> None:
        content = message.json()
        what = (name, message.batch_id, message.msg_id, message.retry_count, content["key"])
        journal.write(*what)
        if content["poison"]:
            raise PoisonError(content["key"])
        client.conn.execute(_EFFECT, what)
        if member is not None:
            time.sleep(WORK)

    return consumer
