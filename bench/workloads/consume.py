"""Consuming: draining a backlog by receive and ack and by a Consumer, against a binary SELECT.

The log is read once before the clock starts, so that no contestant has to set its hint bits.
The reference reads the same rows of the log. Every round drains the same backlog with a new
subscriber.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import count as numbers

import pgque
from bench import references
from bench.arrivals import BATCH, check, drain, fill, tick
from bench.contestants import Entrants, PeerClient
from bench.measure import (
    Context,
    Row,
    WorkloadFailed,
    compared,
    figure,
    interleave,
    stop_autovacuum,
    value,
)
from bench.processes import Crew
from bench.workloads.memory import memory

EMPTY_HANDLER = "Consumer with an empty handler"


class Reader:
    """A Consumer in a process of its own."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def consume(self, queue: str, name: str, count: int) -> tuple[float, array[int]]:
        """Consume so many messages with nothing configured; return seconds and their ids.

        The handler appends to a list, the least that a check needs. The first and the last message
        have their own types, which start and stop the clock. The time lacks the first receive and
        the last ack, two of some thousands.
        """
        consumer = pgque.Consumer(self._dsn, queue=queue, name=name)
        ids: list[int] = []
        append = ids.append
        began = ended = 0.0

        @consumer.on("first")
        def first(message: pgque.Message) -> None:
            nonlocal began
            began = time.perf_counter()
            append(message.msg_id)

        @consumer.on("default")
        def handle(message: pgque.Message) -> None:
            append(message.msg_id)

        @consumer.on("last")
        def last(message: pgque.Message) -> None:
            nonlocal ended
            ended = time.perf_counter()
            append(message.msg_id)
            consumer.stop()

        consumer.start()
        return ended - began, array("q", ids)


def drained(context: Context) -> list[Row]:
    """Workloads 4 and 5, on the same backlogs: one of many windows, and one of a single window."""
    total = 20_000 if context.brief else context.pick(1_000_000, 100_000, 3_000)
    rows = []
    for windows, tick_every in (("windows of 1,000", BATCH), ("one window", None)):
        context.progress(f"a backlog of {total:,} in {windows}")
        rows += _drained(context, total, windows, tick_every)
    return rows + _drained_by_peers(context)


def _drained(context: Context, total: int, windows: str, tick_every: int | None) -> list[Row]:
    name = f"consume_{tick_every or 0}"
    chunks = (BATCH,) if tick_every else (BATCH, 5 * BATCH)
    turn = numbers()
    with ExitStack() as stack:
        client = stack.enter_context(pgque.connect(context.dsn, autocommit=True))
        client.create_queue(name)
        stop_autovacuum(client.conn)
        for number in range((1 + len(chunks)) * (context.rounds + 1)):
            client.subscribe(name, f"reader {number}")
        for chunk in chunks:
            client.subscribe(name, f"explained {chunk}")
        sent = array("q", [client.send(name, "first", type="first")])
        sent.extend(fill(client, name, total - 2, tick_every=tick_every))
        sent.append(client.send(name, "last", type="last"))
        tick(client, name)
        log = references.copy_of_log(client.conn, name)
        if references.select(client.conn, log) != sent:
            raise WorkloadFailed("the log does not hold what was sent")

        def receive(chunk: int) -> float:
            reader = f"reader {next(turn)}"
            began = time.perf_counter()
            arrived = drain(client, name, reader, chunk)
            seconds = time.perf_counter() - began
            check([sent], arrived, f"workload 4, {windows}, by {chunk:,}")
            return total / seconds

        def consume() -> float:
            reader = f"reader {next(turn)}"
            [result] = crew.call("consume", name, reader, total)
            seconds, arrived = result.result
            check([sent], arrived, f"workload 5, {windows}")
            if client.receive(name, reader):
                raise WorkloadFailed("workload 5: messages were left after the last one")
            return total / float(seconds)

        def select(chunk: int, *, keeps_place: bool = False) -> float:
            began = time.perf_counter()
            arrived = references.select(client.conn, log, chunk, keeps_place=keeps_place)
            seconds = time.perf_counter() - began
            check([sent], arrived, "the reference")
            return total / seconds

        crew = stack.enter_context(Crew(1, Reader, context.dsn))
        contestants: dict[str, Callable[[], float]] = {"consume": consume}
        for chunk in chunks:
            contestants[f"receive {chunk}"] = partial(receive, chunk)
            contestants[f"select {chunk}"] = partial(select, chunk)
            contestants[f"place {chunk}"] = partial(select, chunk, keeps_place=True)
        interleave(contestants, 1)
        figures = interleave(contestants, context.rounds)
        rows = [_in_server(context, client, name, log, chunk, windows) for chunk in chunks]
    several = partial(compared, unit="events/s", reference="binary SELECT of the same rows")
    rows += [
        several(
            4,
            f"receive and ack by {chunk:,}, {windows}",
            samples=figures[f"receive {chunk}"],
            reference_samples=figures[f"select {chunk}"],
            goal=">= 0.6",
        )
        for chunk in chunks
    ]
    # A consumer has to commit each piece; a SELECT does not.
    rows += [
        compared(
            4,
            f"receive and ack by {chunk:,}, {windows}, beside a SELECT that keeps its place",
            "events/s",
            samples=figures[f"receive {chunk}"],
            reference="binary SELECT, and a commit for each piece",
            reference_samples=figures[f"place {chunk}"],
        )
        for chunk in chunks
    ]
    rows.append(
        several(
            5,
            f"{EMPTY_HANDLER}, {windows}",
            samples=figures["consume"],
            reference_samples=figures[f"select {BATCH}"],
            goal=">= 0.4",
        )
    )
    for row in rows[len(chunks) :]:
        row.detail |= {"every event arrived": total, "of each round": context.rounds}
    if rows[-1].value is not None and rows[-1].value >= 100_000:
        rows[-1].met = True  # 100,000 a second, or 0.4 of the SELECT on a slower machine
    return rows


def _in_server(
    context: Context, client: pgque.PgqueClient, name: str, log: str, chunk: int, windows: str
) -> Row:
    """Compare the server's own time for a batch with that for the SELECT."""
    reader = f"explained {chunk}"
    call = b"select * from pgque.receive(%s::text, %s::text, %s::int)"

    def receive() -> float:
        with client.conn.transaction(force_rollback=True):
            return references.in_server(client.conn, call, (name, reader, chunk)) / chunk * 1e3

    def select() -> float:
        return references.select_in_server(client.conn, log, chunk) / chunk * 1e3

    contestants = {"receive": receive, "select": select}
    interleave(contestants, 2)
    samples = interleave(contestants, context.pick(20, 10, 1))
    return compared(
        4,
        f"receive by {chunk:,} inside of the server, {windows}",
        "µs per event",
        samples["receive"],
        reference="the SELECT inside of the server",
        reference_samples=samples["select"],
    )


def _drained_by_peers(context: Context) -> list[Row]:
    """Measure each peer's worker, with fewer jobs, because some do only hundreds a second."""
    jobs = context.pick(3000, 500, 20)

    def turn(peer: PeerClient) -> float:
        context.progress(f"{peer.name}: {jobs} jobs")
        if "bulk" in peer.peer.lacks:
            peer.enqueue(jobs)
        else:
            peer.enqueue_many(max(jobs // BATCH, 1), min(jobs, BATCH))
        return peer.drain()

    with ExitStack() as stack:
        entrants = Entrants(context, stack, 5, f"{jobs:,} jobs drained by its own worker")
        figures = interleave(entrants.turns(turn), context.pick(context.rounds, 1, 1))
    rows = entrants.rows(figures)
    for row in rows:
        row.detail["every event arrived"] = jobs
    return rows


def by_backlog(context: Context) -> list[Row]:
    """Workload 10: the same work for subscribers with different backlogs."""
    sizes = context.pick((1_000, 100_000, 5_000_000), (1_000, 10_000, 200_000), (1_000, 3_000))
    rows = []
    for windows, tick_every in (("windows of 1,000", BATCH), ("one window", None)):
        context.progress(f"backlogs up to {sizes[-1]:,} in {windows}")
        rows += _by_backlog(context, sizes, windows, tick_every)
    return rows


def _by_backlog(
    context: Context, sizes: tuple[int, ...], windows: str, tick_every: int | None
) -> list[Row]:
    """Give each reader its backlog. Each round then adds 1,000 events; each reader takes 1,000."""
    queue = f"backlog_{tick_every or 0}"
    sent: array[int] = array("q")
    arrived = {size: array("q") for size in sizes}
    starts: dict[int, int] = {}
    with pgque.connect(context.dsn, autocommit=True) as client:
        client.create_queue(queue)
        stop_autovacuum(client.conn)
        left = sizes[-1]
        for size in reversed(sizes):
            sent.extend(fill(client, queue, left - size, tick_every=tick_every))
            left = size
            client.subscribe(queue, f"reader {size}")
            starts[size] = len(sent)
        sent.extend(fill(client, queue, left, tick_every=tick_every))
        value(client.conn, f"select count(*) from {references.log_child(client.conn, queue)}")

        def take(size: int) -> float:
            began = time.perf_counter()
            taken = 0
            while taken < BATCH:
                with client.conn.transaction():
                    messages = client.receive(queue, f"reader {size}", min(100, BATCH - taken))
                    if not messages:
                        raise WorkloadFailed(f"workload 10: nothing is left of {size}")
                    client.ack(messages[0].batch_id)
                taken += len(messages)
                arrived[size].extend([message.msg_id for message in messages])
            return (time.perf_counter() - began) / BATCH * 1e6

        def top_up() -> float:
            sent.extend(fill(client, queue, BATCH, tick_every=None))
            return 0.0

        contestants = {f"{size}": partial(take, size) for size in sizes}
        figures: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(context.rounds * context.pick(20, 10, 1) + 1):
            for name, samples in interleave(contestants, 1).items():
                if number:  # the first round plans the statements
                    figures[name] += samples
            contestants = dict(reversed(contestants.items()))
            top_up()
        checked = 0
        for size in sizes:
            arrived[size].extend(drain(client, queue, f"reader {size}"))
            checked += check([sent[starts[size] :]], arrived[size], f"workload 10, {size}")
    rows = []
    for size in sizes:
        samples = figures[f"{size}"]
        name = f"receive and ack of 100 at a backlog of {size:,}, {windows}"
        if size == sizes[0]:
            rows.append(figure(10, name, "µs per event", samples))
        else:
            rows.append(
                compared(
                    10,
                    name,
                    "µs per event",
                    samples,
                    reference=f"a backlog of {sizes[0]:,}",
                    reference_samples=figures[f"{sizes[0]}"],
                    goal="<= 1.1",
                )
            )
        rows[-1].detail |= {"every event arrived": checked, "backlog": size, "windows": windows}
    return rows


WORKLOADS = {4: drained, 5: drained, 10: by_backlog, 17: memory}
