"""The consumers: an unchanged `pgque.Consumer` with a handler that records its calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pgque
from bench.chaos.deeds import DEEDS, Call, do
from bench.chaos.journal import Journal
from bench.chaos.tables import DEAD_INTERVAL, HANDLERS, QUEUE, RETRY_AFTER

WORK = 0.002
"""Seconds that a group's handler works outside the database, so that faults can hit it then."""
MAX_MESSAGES = 50
"""Small, because a batch that takes longer than the time between two faults never completes."""
_EFFECT = (
    "insert into chaos_effect (consumer, batch, message, retry, key, at) "
    "values (%s, %s, %s, %s, %s, to_timestamp(%s))"
)


class PoisonError(Exception):
    """Every handler refuses this message."""


def make_consumer(
    dsn: str, role: str, journal: Journal, process: str, folder: Path
) -> pgque.Consumer:
    """Create the consumer of a role, with its one handler.

    ``process`` names this process. ``folder`` holds its journal: a deed that kills the process
    records this there first.
    """
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
    def handle(message: pgque.Message, client: pgque.PgqueClient) -> Any:
        content = message.json()
        what = (name, message.batch_id, message.msg_id, message.retry_count, content["key"])
        # The clock of this process, because a fault may set the server's.
        line = (*what, time.time())
        journal.write(*line)
        if content["poison"]:
            raise PoisonError(content["key"])
        deed = content.get("deed")
        if deed is None or DEEDS[deed].writes:
            client.conn.execute(_EFFECT, line)
        if member is not None:
            time.sleep(WORK)
        if deed is not None:
            return do(Call(message, client, name, process, folder), deed)
        return None

    return consumer
