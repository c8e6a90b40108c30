"""Work while another transaction pins the xmin horizon (9), so that no dead row can be removed.

First pgque alone: cycles of send, tick, receive and ack on one connection. The last cycles are
compared with the first, and dead rows are counted. Then pgque and the peers at a steady rate.
"""

from __future__ import annotations

import statistics
from time import perf_counter

import psycopg

from bench.measure import (
    Context,
    Row,
    WorkloadFailed,
    dead_tuples,
    figure,
    lacking,
)
from bench.old import pinned_horizon
from bench.paced import Board, Load, Session
from bench.peers.ours import Ours

OURS = "ours"
RATE = 300.0
PLACES_FOR_WARMING_UP = 2000


def measure_horizon(context: Context) -> list[Row]:
    """Measure pgque's cycles, then pgque and the peers at a steady rate."""
    rows = _cycles(context)
    if context.peers or not context.quick:
        for name in (OURS, *context.peers):
            rows.append(_beside(context, name))
    return rows


def _cycles(context: Context) -> list[Row]:
    count = 2_000 if context.brief else context.pick(50_000, 3_000, 60)
    part = context.pick(1_000, 500, 20)
    ours = Ours(context.dsn)
    ours.set_up()
    try:
        # The first calls of a connection plan their statements.
        for number in range(context.pick(500, 200, 5)):
            ours.cycle(f"warming up {number}")
        with psycopg.connect(context.dsn, autocommit=True) as conn:
            conn.execute("vacuum")  # set-up and warm-up do not count
        times = []
        with pinned_horizon(context.dsn):
            for number in range(count):
                began = perf_counter()
                # It fails if anything but this one event arrives.
                ours.cycle(f"{number:0100d}")
                times.append((perf_counter() - began) * 1e3)
                if (number + 1) % 5000 == 0:
                    context.progress(f"{number + 1:,} of {count:,} cycles")
            with psycopg.connect(context.dsn, autocommit=True) as conn:
                ours.tear_down()  # a backend reports its statistics at the latest when it ends
                dead = dead_tuples(conn)
    finally:
        ours.tear_down()
    first, last = statistics.median(times[:part]), statistics.median(times[-part:])
    cycles = figure(
        9,
        f"the last {part:,} of {count:,} cycles of send, tick, receive and ack",
        "ms",
        [last],
        cycles=_by_part(times, max(part // 2, 1)),
    )
    cycles.detail["every event arrived"] = count
    cycles.low, cycles.high = min(times[-part:]), max(times[-part:])
    cycles.reference, cycles.reference_value = f"the first {part:,}", first
    cycles.ratio, cycles.goal = last / first, "<= 1.1"
    cycles.met = cycles.ratio <= 1.1
    tables = figure(
        9, "dead rows after it, all tables", "rows", [sum(dead.values())], goal="<= 0", tables=dead
    )
    return [cycles, tables]


def _by_part(times: list[float], size: int) -> list[tuple[int, float]]:
    return [
        (start + size, statistics.median(times[start : start + size]))
        for start in range(0, len(times) - size + 1, size)
    ]


def _beside(context: Context, name: str) -> Row:
    """Return the row of one contestant at the steady rate."""
    subject = "pgque" if name == OURS else name
    title = f"{RATE:,.0f} a second for {_seconds(context)[0]:g} s"
    try:
        return _paced(context, name, subject, title)
    except Exception as error:
        if name == OURS:
            raise
        context.progress(f"{name} failed: {error}")
        return lacking(9, title, subject, f"failed: {error}")


def _seconds(context: Context) -> tuple[float, float]:
    """Return the seconds to send, and the seconds at both ends that are compared."""
    return context.pick((90.0, 10.0), (4.0, 1.0), (1.0, 0.4))


def _paced(context: Context, name: str, subject: str, title: str) -> Row:
    seconds, part = _seconds(context)
    context.progress(f"{subject}: {title}")
    dsn = context.database(name)
    board = Board(round(RATE * seconds) + PLACES_FOR_WARMING_UP)
    with Session(name, dsn, board, fastest=RATE) as session:
        with pinned_horizon(dsn):
            load = session.send(RATE, seconds)
        # A peer that fell behind may catch up now.
        drained = session.wait(context.pick(300, 60, 60))
    if not drained and name == OURS:
        raise WorkloadFailed(f"{load.missing()} events did not arrive")
    return _paced_row(load, subject, title, seconds, part)


def _paced_row(load: Load, subject: str, title: str, seconds: float, part: float) -> Row:
    first, last = load.delays(until=part), load.delays(since=seconds - part)
    if not last:
        last = load.delays(since=load.ended - load.began - part)
    row = figure(
        9,
        f"{title}, its last {part:g} s",
        "ms",
        [statistics.median(last)],
        subject=subject,
        curve=load.curve(),
        x="seconds",
        sent=load.sent_rate,
        handled=load.handled_rate,
        falls_behind=load.falls_behind,
        events=sum(1 for _ in load.numbers),
        missing=load.missing(),
    )
    row.low, row.high = min(last), max(last)
    row.reference, row.reference_value = f"its first {part:g} s", statistics.median(first)
    row.ratio = statistics.median(last) / statistics.median(first)
    return row


WORKLOADS = {9: measure_horizon}
