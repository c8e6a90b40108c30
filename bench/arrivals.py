"""Check that every event arrived, once and in order. Without that no figure counts."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

import pgque
from bench.measure import WorkloadFailed

BATCH = 1000
PATIENCE = 60


def fill(
    client: pgque.PgqueClient, queue: str, count: int, *, tick_every: int | None
) -> array[int]:
    """Send events in batches of 1,000; tick after so many events, or once at the end (None)."""
    ids: array[int] = array("q")
    payloads = [f"{number:0100d}" for number in range(BATCH)]
    while len(ids) < count:
        ids.extend(client.send_batch(queue, "default", payloads[: count - len(ids)]))
        if tick_every and len(ids) % tick_every < BATCH:
            tick(client, queue)
    tick(client, queue)
    return ids


def tick(client: pgque.PgqueClient, queue: str) -> None:
    """Tick until nothing is due. Another transaction in the cluster may delay the first tick."""
    while client.ticker(queue) is not None:
        pass


def drain(client: pgque.PgqueClient, queue: str, consumer: str, chunk: int = BATCH) -> array[int]:
    """Receive and ack all ready batches, each in its own transaction; return the ids."""
    ids: array[int] = array("q")
    while True:
        with client.conn.transaction():
            messages = client.receive(queue, consumer, chunk)
            if not messages:
                return ids
            ids.extend([message.msg_id for message in messages])
            if client.ack(messages[0].batch_id) != 1:
                raise WorkloadFailed(f"{queue}/{consumer}: an ack was refused")


def drain_all(client: pgque.PgqueClient, queue: str, consumer: str, expected: int) -> array[int]:
    """Tick and drain until this many events have arrived or a minute has passed without one."""
    ids: array[int] = array("q")
    deadline = time.monotonic() + PATIENCE
    while True:
        client.ticker(queue)
        if got := drain(client, queue, consumer):
            ids.extend(got)
            deadline = time.monotonic() + PATIENCE
        elif len(ids) >= expected or time.monotonic() > deadline:
            return ids


def check(senders: Sequence[Sequence[int]], arrived: Sequence[int], what: str) -> int:
    """Compare the arrived events with those that each sender sent, in order; return their number.

    Raises `WorkloadFailed` if an event is missing, arrived twice, or arrived before one that the
    same sender had committed earlier.
    """
    total = sum(map(len, senders))
    if len(senders) == 1 and list(arrived) == list(senders[0]):
        return total
    place = {event: number for number, event in enumerate(arrived)}
    missing = sum(event not in place for sent in senders for event in sent)
    if missing or len(place) != len(arrived) or len(arrived) != total:
        raise WorkloadFailed(
            f"{what}: {total} events sent, {len(arrived)} arrived, {missing} missing, "
            f"{len(arrived) - len(place)} twice"
        )
    for sent in senders:
        places = [place[event] for event in sent]
        if places != sorted(places):
            raise WorkloadFailed(f"{what}: events of one sender arrived in another order")
    return total
