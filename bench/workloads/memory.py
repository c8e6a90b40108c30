"""Memory of a consumer's process while it drains a large backlog."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import pgque
from bench.arrivals import BATCH, fill
from bench.measure import Context, Row, WorkloadFailed, figure, rss
from bench.processes import Crew

QUEUE, READER = "memory", "reader"


@dataclass
class Drained:
    """How often each event arrived, and the memory in bytes over time."""

    times: bytearray
    in_order: bool
    before: int
    samples: list[int]


class Consumer:
    """A Consumer in its own process, which watches its memory."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def consume(self, first: int, count: int) -> Drained:
        """Consume this many messages, whose ids begin at ``first``."""
        consumer = pgque.Consumer(self._dsn, queue=QUEUE, name=READER, max_messages=1000)
        times = bytearray(b"\0") * count  # written, so that it is allocated now
        last = handled = 0
        in_order = True

        @consumer.on("*")
        def handle(message: pgque.Message) -> None:
            nonlocal last, handled, in_order
            times[message.msg_id - first] += 1
            in_order = in_order and message.msg_id > last
            last = message.msg_id
            handled += 1
            if handled == count:
                consumer.stop()

        before = rss(os.getpid())
        samples: list[int] = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                samples.append(rss(os.getpid()))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        consumer.start()
        done.set()
        watcher.join()
        samples.append(rss(os.getpid()))
        return Drained(times, in_order, before, samples)


def memory(context: Context) -> list[Row]:
    """Workload 17: half of the backlog is one window, the other half windows of 1,000."""
    total = context.pick(5_000_000, 200_000, 3_000)
    with pgque.connect(context.dsn, autocommit=True) as client:
        client.create_queue(QUEUE)
        client.subscribe(QUEUE, READER)
        context.progress(f"a backlog of {total:,}")
        sent = fill(client, QUEUE, total // 2, tick_every=None)
        sent.extend(fill(client, QUEUE, total - total // 2, tick_every=BATCH))
        if sent[-1] - sent[0] + 1 != total:
            raise WorkloadFailed("workload 17 needs ids without gaps")
        context.progress("draining it")
        with Crew(1, Consumer, context.dsn) as crew:
            [turn] = crew.call("consume", sent[0], total)
        left = len(client.receive(QUEUE, READER))
    drained: Drained = turn.result
    if drained.times != b"\1" * total or not drained.in_order or left:
        raise WorkloadFailed(
            f"workload 17: {total} events sent, {drained.times.count(0)} missing, {left} left, "
            f"in order: {drained.in_order}"
        )
    megabytes = [(sample - drained.before) / 1e6 for sample in drained.samples]
    row = figure(
        17, f"growth of the process, backlog of {total:,}", "MB", [max(megabytes)], goal="< 30 MB"
    )
    step = max(len(megabytes) // 200, 1)
    row.detail |= {"every event arrived": total, "curve": megabytes[::step]}
    return [row]
