"""Half an hour at a steady 2,000 a second (18), beside the usual troubles of a database.

The queue rotates every minute. An analytical query and a pinned xmin horizon recur.
Throughput, latency and disk are compared between the first and the last third.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import psycopg

import pgque
from bench.measure import Context, Row, WorkloadFailed, figure
from bench.old import pinned_horizon
from bench.paced import Board, Load, Session, percentile
from bench.peers import QUEUE

OURS = "ours"
CURVE = "second, handled, median ms, 99th percentile ms"
PLACES_FOR_WARMING_UP = 2000
ROUNDS_OF_TROUBLE = 6
HISTORY = """
    create table history as
    select n as id, md5(n::text) as text, n % 1000 as part from generate_series(1, {}) n
"""
ANALYSIS = "select part, count(*), max(md5(text)), sum(length(text)) from history group by part"
DISK = """
    select sum(pg_total_relation_size(c.oid)) from pg_class c
    where c.relnamespace = 'pgque'::regnamespace and c.relkind in ('r', 'm', 'S')
"""


class Disk:
    """A thread that measures the size of the schema every second."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.samples: list[tuple[float, float]] = []

    def _look(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            while not self._stop.wait(1.0):
                row = conn.execute(DISK).fetchone()
                assert row is not None
                self.samples.append((time.perf_counter(), float(row[0]) / 1e6))

    def __enter__(self) -> Disk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Trouble:
    """In each of six rounds an analytical query, and later a pinned xmin horizon."""

    def __init__(self, dsn: str, seconds: float) -> None:
        self._dsn = dsn
        self._round = seconds / ROUNDS_OF_TROUBLE
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True)
        self._began = 0.0
        self.made: list[tuple[str, float, float]] = []
        """Its name, start and end, in seconds."""

    def _make(self) -> None:
        for _ in range(ROUNDS_OF_TROUBLE):
            self._one("analytical query", self._analyze, min(5.0, self._round / 6))
            self._one("pinned horizon", self._pin, min(45.0, self._round / 4))

    def _one(self, what: str, make: Any, seconds: float) -> None:
        """Wait and make trouble in turn, half a round each, until the end."""
        if self._stop.wait(self._round / 2 - seconds):
            return
        began = time.perf_counter()
        make(seconds)
        self.made.append((what, began - self._began, time.perf_counter() - self._began))

    def _analyze(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            while time.perf_counter() < until and not self._stop.is_set():
                conn.execute(ANALYSIS)

    def _pin(self, seconds: float) -> None:
        with pinned_horizon(self._dsn):
            self._stop.wait(seconds)

    def __enter__(self) -> Trouble:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure_soak(context: Context) -> list[Row]:
    """Send, consume and make trouble for this many minutes; then look for missing events."""
    seconds = context.pick(context.soak_minutes, min(context.soak_minutes, 1.0), 0.1) * 60
    rate = context.pick(2000.0, 2000.0, 200.0)
    rotation = context.pick(60.0, 10.0, 2.0)
    dsn = context.database(OURS)
    board = Board(round(rate * seconds) + PLACES_FOR_WARMING_UP)
    with Session(OURS, dsn, board, fastest=rate) as session:
        with pgque.connect(dsn, autocommit=True) as client:
            client.set_queue_config(QUEUE, "rotation_period", f"{rotation:g} seconds")
            client.conn.execute(HISTORY.format(context.pick(1_000_000, 200_000, 1000)).encode())
        with Disk(dsn) as disk, Trouble(dsn, seconds) as trouble, _minutes(context, seconds):
            load = session.send(rate, seconds)
        # Duplicates are found by the session.
        if not session.wait(120):
            raise WorkloadFailed(f"{load.missing()} of {load.count} events were lost")
    sent = sum(1 for _ in load.numbers)
    return [
        figure(
            18,
            f"events lost or twice of {sent:,} in {seconds / 60:g} min",
            "events",
            [0.0],
            goal="<= 0",
            trouble=trouble.made,
            sent_rate=load.sent_rate,
            not_sent_in_time=load.count - sent,
        ),
        *_thirds(load, seconds),
        *_disk(disk, load, seconds, rotation),
    ]


@contextlib.contextmanager
def _minutes(context: Context, seconds: float) -> Iterator[None]:
    """Report the progress each minute."""
    stop = threading.Event()

    def say() -> None:
        minute = 0
        while not stop.wait(60):
            minute += 1
            context.progress(f"minute {minute} of {seconds / 60:g}")

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _thirds(load: Load, seconds: float) -> list[Row]:
    """Compare throughput and delay of the last third with the first."""
    third = seconds / 3
    by_second = _by_second(load)
    first = [part for second, part in by_second.items() if second < third]
    last = [part for second, part in by_second.items() if 2 * third <= second < int(seconds)]
    rate = _compare(
        "handled a second, last third",
        "events",
        [float(len(part)) for part in last],
        [float(len(part)) for part in first],
        ">= 0.9",
    )
    early, late = list(chain(*first)), list(chain(*last))
    median = _compare("send to handler, last third", "ms", late, early, "<= 1.1")
    median.detail["p99"] = percentile(late, 0.99)
    median.detail["p99 of the first third"] = percentile(early, 0.99)
    curve = [
        (second, len(part), round(statistics.median(part), 3), round(percentile(part, 0.99), 3))
        for second, part in sorted(by_second.items())
    ]
    median.detail["curve"] = curve
    median.detail["curve is"] = CURVE
    p99 = figure(18, "send to handler, 99th percentile", "ms", [percentile(early + late, 0.99)])
    return [rate, middle_third(curve, seconds), median, p99]


def middle_third(curve: Sequence[tuple[float, ...]], seconds: float) -> Row:
    """Compare the per-second medians of the middle third with the first."""
    third = seconds / 3
    first = [line[2] for line in curve if line[0] < third]
    middle = [line[2] for line in curve if third <= line[0] < 2 * third]
    return _compare("send to handler, middle third, by second", "ms", middle, first, "<= 1.1")


def _by_second(load: Load) -> dict[int, list[float]]:
    """Return the delays in ms by the second of handling."""
    sent, arrived = load.board.sent, load.board.arrived
    parts: dict[int, list[float]] = {}
    for n in load.numbers:
        parts.setdefault(int(arrived[n] - load.began), []).append((arrived[n] - sent[n]) * 1e3)
    return parts


def _compare(name: str, unit: str, last: list[float], first: list[float], goal: str) -> Row:
    """Make a row from two medians without keeping the samples, which may be millions."""
    row = figure(18, name, unit, [statistics.median(last)], goal=goal)
    row.reference, row.reference_value = "first third", statistics.median(first)
    row.ratio = statistics.median(last) / statistics.median(first)
    row.met = row.ratio >= 0.9 if goal.startswith(">") else row.ratio <= 1.1
    return row


def _disk(disk: Disk, load: Load, seconds: float, rotation: float) -> list[Row]:
    """Compare the largest size in the last third with the largest before, from rotation 2 on."""
    curve = [(moment - load.began, size) for moment, size in disk.samples]
    after = [(moment, size) for moment, size in curve if 2.2 * rotation < moment < seconds]
    middle = (2.2 * rotation + seconds) / 2
    before = [size for moment, size in after if moment < middle]
    later = [size for moment, size in after if moment >= middle]
    top = figure(18, "most room that the schema took", "MB", [max(s for _, s in curve)])
    top.detail["curve"] = curve
    if not before or not later:
        return [top]
    flat = figure(18, "room taken after the second rotation", "MB", [max(later)], goal="<= 1.1")
    flat.reference, flat.reference_value = "in the first half of that time", max(before)
    flat.ratio = max(later) / max(before)
    flat.met = flat.ratio <= 1.1
    return [top, flat]


WORKLOADS = {18: measure_soak}
