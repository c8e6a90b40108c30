"""pgqueuer: `Queries.install`, `SyncQueries.enqueue`, `PgQueuer.entrypoint` and `run`.

Settings, after its documentation: its first choice of driver, asyncpg, for the worker, and uvloop
as under its own command line; LISTEN/NOTIFY is always on; the autovacuum settings that it
recommends (`pgq autovac`) are applied; `batch_size` is 100 in place of 10, so that a worker does
not query for every ten jobs at the higher rates. Producers are synchronous, as in its Flask sample.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import asyncpg
import psycopg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, SyncPsycopgDriver
from pgqueuer.queries import Queries, SyncQueries

from bench.peers import url

BATCH_SIZE = 100


class Pgqueuer:
    """pgqueuer with asyncpg at the worker and psycopg at the producer."""

    name: ClassVar[str] = "pgqueuer"
    package: ClassVar[str] = "pgqueuer"
    lacks: ClassVar[dict[str, str]] = {
        "cycle": "its API fetches and completes only inside a running worker",
    }

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._conn = psycopg.connect(dsn, autocommit=True)
        self._queries: Any = SyncQueries(SyncPsycopgDriver(self._conn))

    def set_up(self) -> None:
        asyncio.run(self._set_up())

    async def _set_up(self) -> None:
        conn = await asyncpg.connect(url(self._dsn))
        try:
            queries = Queries(AsyncpgDriver(conn))
            await queries.install()
            await queries.optimize_autovacuum()
        finally:
            await conn.close()

    def enqueue(self, payload: str) -> None:
        self._queries.enqueue("bench", payload.encode())

    def enqueue_many(self, payloads: list[str]) -> None:
        count = len(payloads)
        encoded = [payload.encode() for payload in payloads]
        self._queries.enqueue(["bench"] * count, encoded, [0] * count)

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        uvloop.run(self._work(handled, stop))

    async def _work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        conn = await asyncpg.connect(url(self._dsn))
        manager = PgQueuer(AsyncpgDriver(conn))

        async def handle(job: Any) -> None:
            handled((job.payload or b"").decode())

        manager.entrypoint("bench")(handle)
        running = asyncio.create_task(manager.run(batch_size=BATCH_SIZE))
        await asyncio.to_thread(stop.wait)
        manager.shutdown.set()
        await running
        await conn.close()

    def cycle(self, payload: str) -> None:
        raise NotImplementedError(self.lacks["cycle"])

    def tear_down(self) -> None:
        self._conn.close()
