"""awa-pg: `Client.migrate`, `Client.insert`, `Client.enqueue_many_copy`, `AsyncClient.start`.

Settings, after its documentation: its queue-storage engine, by `install_queue_storage`, its call
for setups with that engine only (`migrate` leaves the older one active); ten workers on the queue.
Jobs wake its workers by LISTEN/NOTIFY. The fallback, `poll_interval_ms`, is 50 instead of 200. The
queue's `claimers` stay at one, which keeps its strict order.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import awa

from bench.peers import QUEUE, url

WORKERS = 10
POLL_MS = 50


@dataclass
class Bench:
    """The arguments of the job, from which awa takes its kind."""

    payload: str


class Awa:
    """awa-pg: producers with its synchronous client, the worker with its asynchronous one."""

    name: ClassVar[str] = "awa"
    package: ClassVar[str] = "awa-pg"
    lacks: ClassVar[dict[str, str]] = {
        "cycle": "its API fetches and completes only inside a running worker",
    }

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._client: Any = awa.Client(url(dsn), max_connections=2)

    def set_up(self) -> None:
        self._client.migrate()
        self._client.install_queue_storage()

    def enqueue(self, payload: str) -> None:
        self._client.insert(Bench(payload), queue=QUEUE)

    def enqueue_many(self, payloads: list[str]) -> None:
        self._client.enqueue_many_copy([Bench(payload) for payload in payloads], queue=QUEUE)

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        asyncio.run(self._work(handled, stop))

    async def _work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        client = awa.AsyncClient(url(self._dsn))

        async def handle(job: Any) -> None:
            handled(job.args.payload)

        client.task(Bench, queue=QUEUE)(handle)
        await client.start([(QUEUE, WORKERS)], poll_interval_ms=POLL_MS)
        await asyncio.to_thread(stop.wait)
        await client.shutdown()
        await client.close()

    def cycle(self, payload: str) -> None:
        raise NotImplementedError(self.lacks["cycle"])

    def tear_down(self) -> None:
        self._client.close()
