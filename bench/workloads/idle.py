"""An idle system: the cost of a ticker and ten consumers without events.

Autovacuum is on, as it is by default, and its processes are counted with the server's. Set-up
leaves dead rows in catalogs, so the database is vacuumed first. The clock starts once the server
has written nothing for more than 15 s, the interval at which its background writer logs running
transactions. A quick run waits for the sessions of the ticker and the consumers only.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import psycopg

import pgque
from bench.measure import (
    Connection,
    Context,
    Row,
    WorkloadFailed,
    cpu_seconds,
    dead_tuples,
    figure,
    server_pid,
    value,
    wal_bytes,
)
from bench.processes import Crew


class Ticking:
    """A ticker in its own process."""

    def __init__(self, dsn: str) -> None:
        self._ticker = pgque.Ticker(dsn)
        self._thread = threading.Thread(target=self._ticker.run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it."""
        self._ticker.stop()
        self._thread.join()


class Consuming:
    """A consumer in its own process."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._ids: list[int] = []
        self._consumer: pgque.Consumer | None = None

    def consume(self, queue: str) -> None:
        """Begin to consume in a thread."""
        self._consumer = pgque.Consumer(self._dsn, queue=queue, name="reader")

        @self._consumer.on("*")
        def handle(message: pgque.Message) -> None:
            self._ids.append(message.msg_id)

        threading.Thread(target=self._consumer.start, daemon=True).start()

    def handled(self) -> list[int]:
        """Return the ids of the messages received so far."""
        return self._ids

    def close(self) -> None:
        """Stop it."""
        if self._consumer is not None:
            self._consumer.stop()


def idle(context: Context) -> list[Row]:
    """Workload 8: one ticker, 100 queues, 10 consumers; a minute, extrapolated to an hour."""
    seconds = context.pick(60.0, 6.0, 1.0)
    queues, consumers = context.pick((100, 10), (100, 10), (5, 2))
    names = [f"queue {number}" for number in range(queues)]
    with ExitStack() as stack:
        client = stack.enter_context(pgque.connect(context.dsn, autocommit=True))
        conn = client.conn
        for name in names:
            client.create_queue(name)
            client.subscribe(name, "reader")
        tickers = stack.enter_context(Crew(1, Ticking, context.dsn))
        readers = stack.enter_context(Crew(consumers, Consuming, context.dsn))
        for number in range(consumers):
            readers.tell(number, "consume", names[number])
        _send_and_await(client, readers, names[:consumers])
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            conn.execute("checkpoint")
        # In this order: the first hint bit on a page after a checkpoint logs the whole page, and
        # readers of a catalog set its hint bits.
        conn.execute("vacuum (freeze, analyze)")
        context.progress("waiting until nothing is written")
        # The server itself goes on for half a minute; a quick run does not wait for it. A session
        # reports its writes within ten seconds.
        written = _sessions_wal if context.quick and _sessions_wal(conn) is not None else wal_bytes
        rested = _await_rest(partial(written, conn), context.pick(20.0, 11.0, 0.5))
        dead_before = dead_tuples(conn)
        server = server_pid(conn)
        pids = [*tickers.pids, *readers.pids, *([server] if server else [])]
        context.progress(f"idle for {seconds:.0f} s")
        wal, own, used = wal_bytes(conn), _sessions_wal(conn), cpu_seconds(pids)
        began = time.perf_counter()
        time.sleep(seconds)
        passed = time.perf_counter() - began
        used, wal = cpu_seconds(pids) - used, wal_bytes(conn) - wal
        own = None if own is None else (_sessions_wal(conn) or 0) - own
        dead = sum(dead_tuples(conn).values()) - sum(dead_before.values())
        arrived = _send_and_await(client, readers, names[:consumers])
    what = f"idle for {seconds:.0f} s: "
    rows = [
        figure(8, what + "WAL, all of the server", "bytes", [wal], goal="" if own == 0 else "<= 0"),
        figure(8, what + "dead tuples", "rows", [dead], goal="<= 0"),
        figure(
            8, what + "CPU of server and clients", "% of a core", [used / passed * 100], goal="< 2"
        ),
    ]
    if own is not None:
        name = what + "WAL of the ticker's and the consumers' sessions"
        rows.insert(0, figure(8, name, "bytes", [own], goal="<= 0"))
    for row in rows:
        row.detail |= {"every event arrived": arrived, "rested before": rested}
        row.detail["server counted"] = server is not None
    return rows


def _sessions_wal(conn: Connection) -> int | None:
    """Return the WAL bytes of the database's other sessions; None before PostgreSQL 18.

    The server also logs running transactions and vacuums; that does not count for pgque.
    """
    if conn.info.server_version < 180000:
        return None
    value(conn, "select pg_stat_clear_snapshot()")
    query = (
        "select coalesce(sum((pg_stat_get_backend_wal(pid)).wal_bytes), 0) from pg_stat_activity "
        "where datname = current_database() and backend_type = 'client backend' "
        "and pid <> pg_backend_pid()"
    )
    return int(value(conn, query))


def _send_and_await(client: pgque.PgqueClient, readers: Crew, queues: list[str]) -> int:
    """Send an event to each consumer and wait until it arrives, so that all are at work."""
    before = [len(turn.result) for turn in readers.call("handled")]
    sent = [client.send(queue, "x") for queue in queues]

    def arrived() -> bool:
        ids = [turn.result for turn in readers.call("handled")]
        return [got[count:] for got, count in zip(ids, before, strict=True)] == [
            [one] for one in sent
        ]

    _wait(arrived)
    return sum(before) + len(sent)


def _wait(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        if time.monotonic() > deadline:
            raise WorkloadFailed("workload 8: an event did not arrive at an idle consumer")
        time.sleep(0.05)


def _await_rest(written: Callable[[], int | None], quiet: float) -> bool:
    """Wait until nothing was written for this many seconds, at most three times as long."""
    deadline = time.monotonic() + 3 * quiet
    last, since = written(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.25)
        if (now := written()) != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= quiet:
            return True
    return False


WORKLOADS = {8: idle}
