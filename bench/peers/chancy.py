"""chancy: `Chancy.migrate`, `declare`, `sync_push`, `sync_push_many`, `Worker`.

Settings, after its documentation: notifications are on (its default) and wake the worker; the job
is a coroutine on its asyncio executor, which has the least overhead, with 100 jobs at a time, that
executor's default. `eager_polling` is on, which it recommends against latency between jobs.
`polling_interval` is 1 s, its minimum, instead of 5. Its default plugins stay on. The queue is the
one that its migration makes, because a worker would serve that one too, with processes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import chancy

QUEUE = "default"
CONCURRENCY = 100

_handled: Callable[[str], None] = lambda payload: None  # noqa: E731


async def handle(payload: str) -> None:
    """Pass a job's payload on. Chancy imports this function by its name."""
    _handled(payload)


class Chancy:
    """chancy: producers through its synchronous interface, the worker on asyncio."""

    name: ClassVar[str] = "chancy"
    package: ClassVar[str] = "chancy"
    lacks: ClassVar[dict[str, str]] = {
        "cycle": "its API fetches and completes only inside a running worker",
    }

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._app = self._make_app()

    def _make_app(self) -> Any:
        log = logging.getLogger("bench.chancy")
        log.setLevel(logging.WARNING)
        return chancy.Chancy(self._dsn, log=log)

    def set_up(self) -> None:
        asyncio.run(self._set_up())

    async def _set_up(self) -> None:
        async with self._make_app() as app:
            await app.migrate()
            await app.declare(
                chancy.Queue(
                    QUEUE,
                    concurrency=CONCURRENCY,
                    executor=chancy.Chancy.Executor.Async,
                    polling_interval=1,
                    eager_polling=True,
                ),
                upsert=True,
            )

    def _job(self, payload: str) -> Any:
        return chancy.Job(func=f"{__name__}.handle", queue=QUEUE, kwargs={"payload": payload})

    def enqueue(self, payload: str) -> None:
        self._app.sync_push(self._job(payload))

    def enqueue_many(self, payloads: list[str]) -> None:
        jobs = [self._job(payload) for payload in payloads]
        for _ in self._app.sync_push_many(jobs):
            pass

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        global _handled
        _handled = handled
        # Its pool warns about the connections that it drops when it stops.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
        asyncio.run(self._work(stop))

    async def _work(self, stop: threading.Event) -> None:
        async with self._make_app() as app:
            worker = chancy.Worker(app, register_signal_handlers=False)
            await worker.start()
            await asyncio.to_thread(stop.wait)
            await worker.stop()

    def cycle(self, payload: str) -> None:
        raise NotImplementedError(self.lacks["cycle"])

    def tear_down(self) -> None:
        if "sync_pool" in vars(self._app):
            self._app.sync_pool.close()
