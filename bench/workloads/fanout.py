"""Fan-out: the cost of more consumers for the producer and for the log's size on disk."""

from __future__ import annotations

import time
from array import array
from contextlib import ExitStack
from functools import partial

import pgque
from bench.arrivals import BATCH, check, drain_all
from bench.measure import Context, Row, compared, figure, interleave, stop_autovacuum, value

TEXTS = [f"{number:0100d}" for number in range(BATCH)]
FANS = (1, 10, 100)


def fan_out(context: Context) -> list[Row]:
    """Workload 12: queues with 1, 10 and 100 consumers that drain between the rounds."""
    singles = 25
    fans = context.pick(FANS, FANS, (1, 3))
    with ExitStack() as stack:
        client = stack.enter_context(pgque.connect(context.dsn, autocommit=True))
        sent: dict[int, array[int]] = {}
        arrived: dict[tuple[int, int], array[int]] = {}
        for fan in fans:
            client.create_queue(f"fan {fan}")
            sent[fan] = array("q")
            for reader in range(fan):
                client.subscribe(f"fan {fan}", f"reader {reader}")
                arrived[fan, reader] = array("q")
        stop_autovacuum(client.conn)

        def send(fan: int) -> float:
            began = time.perf_counter()
            ids = [client.send(f"fan {fan}", TEXTS[0]) for _ in range(singles)]
            seconds = time.perf_counter() - began
            sent[fan].extend(ids)
            return seconds / singles * 1e6

        def send_batch(fan: int) -> float:
            began = time.perf_counter()
            ids = client.send_batch(f"fan {fan}", "default", TEXTS)
            seconds = time.perf_counter() - began
            sent[fan].extend(ids)
            return seconds / BATCH * 1e6

        figures: dict[tuple[str, int], list[float]] = {}
        rounds = context.pick(context.rounds, 1, 1)
        for number in range(rounds):
            several, few = context.pick((40, 8), (40, 6), (1, 1))
            for what, work, turns in (("send", send, several), ("send_batch", send_batch, few)):
                contestants = {str(fan): partial(work, fan) for fan in fans}
                if not number:
                    interleave(contestants, 1)
                for name, samples in interleave(contestants, turns).items():
                    figures.setdefault((what, int(name)), []).extend(samples)
            for (fan, reader), ids in arrived.items():
                missing = len(sent[fan]) - len(ids)
                ids.extend(drain_all(client, f"fan {fan}", f"reader {reader}", missing))
        checked = 0
        for (fan, reader), ids in arrived.items():
            checked += check([sent[fan]], ids, f"workload 12, reader {reader} of {fan}")
        sizes = {fan: _log_size(client, f"fan {fan}") / len(sent[fan]) for fan in fans}
    return _rows(fans, figures, sizes, checked)


def _log_size(client: pgque.PgqueClient, queue: str) -> int:
    query = (
        "select sum(pg_total_relation_size(inhrelid))::bigint from pgque.queue "
        "join pg_inherits on inhparent = queue_data_pfx::regclass where queue_name = %s"
    )
    return int(value(client.conn, query, queue))


def _rows(
    fans: tuple[int, ...],
    figures: dict[tuple[str, int], list[float]],
    sizes: dict[int, float],
    checked: int,
) -> list[Row]:
    rows = []
    for what, unit in (("send", "µs per event"), ("send_batch", "µs per event"), ("log", "bytes")):
        for fan in fans:
            samples = figures.get((what, fan), [sizes[fan]])
            consumers = f"{fan} consumer{'s' if fan > 1 else ''}"
            if what == "log":
                name, unit = f"the log on disk, {consumers}", "bytes per event"
            else:
                name = f"{what} to {consumers}"
            if fan == fans[0]:
                rows.append(figure(12, name, unit, samples))
            else:
                rows.append(
                    compared(
                        12,
                        name,
                        unit,
                        samples,
                        reference="1 consumer",
                        reference_samples=figures.get((what, fans[0]), [sizes[fans[0]]]),
                        goal="<= 1.1",
                    )
                )
            rows[-1].detail |= {"every event arrived": checked, "consumers": fan}
    return rows


WORKLOADS = {12: fan_out}
