"""Producing: send and send_batch against INSERT and COPY, and the WAL that they write.

All calls run in autocommit, so each is one durable transaction. psycopg prepares statements for
both sides alike. Autovacuum is off for the tables of both sides.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pgque
from bench import references
from bench.arrivals import check, drain, drain_all, tick
from bench.contestants import Entrants
from bench.measure import (
    Context,
    Row,
    WorkloadFailed,
    compared,
    interleave,
    stop_autovacuum,
    value,
    wal_bytes,
)
from bench.processes import Crew, span

QUEUE, READER = "produce", "reader"
BATCH = 1000
BULK = "bulk enqueue of 1,000"
PAYLOAD = "x" * 100
TEXTS = [f"{number:0100d}" for number in range(BATCH)]
DICTS = [
    {"order": number, "customer": f"customer {number % 97}", "total": number * 1.25, "paid": True}
    for number in range(BATCH)
]


class Producer:
    """A client that sends and inserts."""

    def __init__(self, dsn: str) -> None:
        self._client = pgque.connect(dsn, autocommit=True)

    def send(self, count: int) -> list[int]:
        """Send events one by one."""
        return [self._client.send(QUEUE, PAYLOAD) for _ in range(count)]

    def insert(self, count: int) -> list[int]:
        """Insert rows one by one."""
        return references.insert(self._client.conn, count, PAYLOAD)

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


def _prepare(context: Context, stack: ExitStack) -> pgque.PgqueClient:
    client = stack.enter_context(pgque.connect(context.dsn, autocommit=True))
    client.create_queue(QUEUE)
    client.subscribe(QUEUE, READER)
    references.make_plain(client.conn)
    stop_autovacuum(client.conn)
    return client


def send_singly(context: Context) -> list[Row]:
    """Workload 1."""
    count = 25
    turns = context.rounds * context.pick(40, 40, 1)
    rows = []
    with ExitStack() as stack:
        client = _prepare(context, stack)
        crew = stack.enter_context(Crew(4, Producer, context.dsn))
        sent: list[list[int]] = [[] for _ in crew.pids]
        inserted = 0
        for clients in (1, 4):

            def send(clients: int = clients) -> float:
                turns = crew.call("send", count, members=clients)
                for ids, turn in zip(sent, turns, strict=False):
                    ids += turn.result
                return span(turns) / (clients * count) * 1e6

            def insert(clients: int = clients) -> float:
                nonlocal inserted
                turns = crew.call("insert", count, members=clients)
                inserted += sum(len(turn.result) for turn in turns)
                return span(turns) / (clients * count) * 1e6

            interleave({"send": send, "insert": insert}, 1)  # plans and catalogs
            figures = interleave({"send": send, "insert": insert}, turns)
            rows.append(
                compared(
                    1,
                    f"send, {clients} client{'s' if clients > 1 else ''}",
                    "µs per event",
                    figures["send"],
                    reference="plain INSERT",
                    reference_samples=figures["insert"],
                    goal="<= 1.15",
                )
            )
        total = sum(map(len, sent))
        arrived = check(sent, drain_all(client, QUEUE, READER, total), "workload 1")
        _check_plain(client, inserted)
    for row in rows:
        row.detail["every event arrived"] = arrived
    return rows


def _check_plain(client: pgque.PgqueClient, expected: int) -> None:
    found = value(client.conn, "select count(*) from plain")
    if found != expected:
        raise WorkloadFailed(f"the plain table has {found} rows, {expected} were written")


def send_texts(context: Context) -> list[Row]:
    """Workload 2."""
    return _send_batches(
        context,
        2,
        "send_batch of 1,000 texts of 100 bytes",
        TEXTS,
        lambda conn: references.copy(conn, TEXTS),
        reference="raw COPY",
        goal=">= 0.9",
        with_peers=True,
    )


def send_dicts(context: Context) -> list[Row]:
    """Workload 3."""
    return _send_batches(
        context,
        3,
        "send_batch of 1,000 dicts",
        DICTS,
        lambda conn: references.copy(conn, [json.dumps(item) for item in DICTS]),
        reference="json.dumps and COPY",
        goal=">= 0.8",
    )


def _send_batches(
    context: Context,
    number: int,
    name: str,
    payloads: list[Any],
    write: Callable[[Any], None],
    *,
    reference: str,
    goal: str,
    with_peers: bool = False,
) -> list[Row]:
    batches = context.pick(10, 5, 2)
    sent: array[int] = array("q")
    written = 0
    with ExitStack() as stack:
        client = _prepare(context, stack)
        entrants = Entrants(context, stack, number, BULK) if with_peers else None

        def ours() -> float:
            began = time.perf_counter()
            results = [client.send_batch(QUEUE, "default", payloads) for _ in range(batches)]
            seconds = time.perf_counter() - began
            for ids in results:
                sent.extend(ids)
            return batches * BATCH / seconds

        def theirs() -> float:
            nonlocal written
            written += batches * BATCH
            began = time.perf_counter()
            for _ in range(batches):
                write(client.conn)
            return batches * BATCH / (time.perf_counter() - began)

        contestants: dict[str, Callable[[], float]] = {"ours": ours, "theirs": theirs}
        others: dict[str, Callable[[], float]] = {}
        figures: dict[str, list[float]] = {}
        if entrants is not None:
            entrants.without("bulk")
            size = context.pick(BATCH, BATCH, 20)
            others = entrants.turns(lambda peer: peer.enqueue_many(1, size))
        interleave(contestants | others, 1)
        for _ in range(context.rounds):
            # Peers are up to a hundred times slower, so they get one turn while pgque gets several.
            for contest, turns in ((contestants, context.pick(8, 5, 1)), (others, 1)):
                for name_of, samples in interleave(contest, turns).items():
                    figures.setdefault(name_of, []).extend(samples)
        arrived = check([sent], drain_all(client, QUEUE, READER, len(sent)), f"workload {number}")
        _check_plain(client, written)
    row = compared(
        number,
        name,
        "events/s",
        figures["ours"],
        reference=reference,
        reference_samples=figures["theirs"],
        goal=goal,
    )
    row.detail["every event arrived"] = arrived
    return [row, *(entrants.rows(figures) if entrants else [])]


def wal(context: Context) -> list[Row]:
    """Workload 16."""
    batches = context.pick(50, 20, 2)
    events = batches * BATCH
    life = "life"
    rotations = 0
    with ExitStack() as stack:
        client = _prepare(context, stack)
        conn = client.conn
        client.create_queue(life)
        client.subscribe(life, READER)
        client.set_queue_config(life, "rotation_period", "1 microsecond")
        stop_autovacuum(conn)
        sent: array[int] = array("q")
        sent_life: array[int] = array("q")
        lived: array[int] = array("q")

        def counted(work: Callable[[], None]) -> Callable[[], float]:
            def run() -> float:
                before = wal_bytes(conn)
                work()
                return (wal_bytes(conn) - before) / events

            return run

        def insert() -> None:
            for _ in range(batches):
                references.insert_many(conn, TEXTS)

        def send() -> None:
            for _ in range(batches):
                sent.extend(client.send_batch(QUEUE, "default", TEXTS))

        def live() -> None:
            nonlocal rotations
            for _ in range(batches):
                sent_life.extend(client.send_batch(life, "default", TEXTS))
                tick(client, life)
                lived.extend(drain(client, life, READER))
            for _ in range(20):  # one, unless another session holds a lock
                if value(conn, "select pgque.maint_rotate_tables_step1(%s)", life):
                    rotations += 1
                    break

        contestants = {"insert": counted(insert), "send": counted(send), "life": counted(live)}
        interleave(contestants, 1)  # the cost of a table's first pages
        figures = interleave(contestants, context.rounds)
        arrived = check([sent], drain_all(client, QUEUE, READER, len(sent)), "workload 16")
        lived.extend(drain_all(client, life, READER, len(sent_life) - len(lived)))
        arrived += check([sent_life], lived, "workload 16, whole life")
    if not rotations:
        raise WorkloadFailed("workload 16: nothing was rotated")
    rows = []
    for name, key in (
        ("WAL, send_batch", "send"),
        ("WAL, whole life: send_batch, tick, receive, ack, rotation", "life"),
    ):
        rows.append(
            compared(
                16,
                name,
                "bytes per event",
                figures[key],
                reference="INSERT … SELECT from unnest",
                reference_samples=figures["insert"],
                goal="<= 1.3",
            )
        )
        rows[-1].detail |= {"every event arrived": arrived, "rotations": rotations}
    return rows


WORKLOADS = {1: send_singly, 2: send_texts, 3: send_dicts, 16: wal}
