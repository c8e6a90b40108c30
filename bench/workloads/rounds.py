"""A round of the ticker over a thousand queues; a hundred have new events."""

from __future__ import annotations

import time
from array import array

import pgque
from bench.arrivals import check, drain_all
from bench.measure import Context, Row, WorkloadFailed, figure, value


def rounds(context: Context) -> list[Row]:
    """Workload 15: `pgque.ticker()`, the call that the ticker process repeats.

    Like that process, it runs with synchronous_commit off on its own connection.
    """
    total = context.pick(1000, 300, 12)
    busy = context.pick(100, 100, 4)
    names = [f"queue {number}" for number in range(total)]
    with (
        pgque.connect(context.dsn, autocommit=True) as client,
        pgque.connect(context.dsn, autocommit=True) as ticker,
    ):
        context.progress(f"making {total} queues")
        for name in names:
            client.create_queue(name)
        step = total // busy
        for name in names[::step][:busy]:
            client.subscribe(name, "reader")
        ticker.conn.execute("set synchronous_commit = off")
        client.ticker_all()
        sent: dict[str, array[int]] = {name: array("q") for name in names[::step][:busy]}
        working: list[float] = []
        idle: list[float] = []
        maintaining: list[float] = []
        for number in range(context.rounds * context.pick(10, 5, 1) + 1):
            for name, ids in sent.items():
                ids.extend(client.send_batch(name, "default", ["x"] * 5))
            ticked, seconds = _timed(ticker, "select pgque.ticker()")
            if ticked < busy:
                raise WorkloadFailed(f"workload 15: {ticked} of {busy} busy queues were ticked")
            _, nothing = _timed(ticker, "select pgque.ticker()")
            _, upkeep = _timed(ticker, "select pgque.maint()")
            if number:  # the first round plans the statements
                working.append(seconds)
                idle.append(nothing)
                maintaining.append(upkeep)
        arrived = 0
        for name, ids in sent.items():
            got = drain_all(client, name, "reader", len(ids))
            arrived += check([ids], got, f"workload 15, {name}")
    of = f"of {total:,} queues"
    rows = [
        figure(15, f"a round of the ticker, {busy} {of} busy", "ms", working, goal="<= 50 ms"),
        figure(15, f"a round of the ticker, none {of} busy", "ms", idle),
        figure(15, f"a round of maintenance {of}, once a second", "ms", maintaining),
    ]
    for row in rows:
        row.detail["every event arrived"] = arrived
    return rows


def _timed(client: pgque.PgqueClient, query: str) -> tuple[int, float]:
    began = time.perf_counter()
    result = value(client.conn, query)
    return int(result or 0), (time.perf_counter() - began) * 1e3


WORKLOADS = {15: rounds}
