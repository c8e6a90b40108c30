"""procrastinate: `App`, `Task.defer`, `Task.batch_defer`, `App.run_worker_async`.

Settings, after its documentation: the task is a coroutine and `concurrency` is 10, which it
recommends for asynchronous tasks; `listen_notify` is on (its default), which it gives as the means
for low latency; `delete_jobs="successful"` keeps its table from growing, as its guide on finished
jobs advises. The schema comes from its own `schema_manager.apply_schema`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import procrastinate

from bench.peers import QUEUE


class Procrastinate:
    """procrastinate with its psycopg connectors."""

    name: ClassVar[str] = "procrastinate"
    package: ClassVar[str] = "procrastinate"
    lacks: ClassVar[dict[str, str]] = {
        "cycle": "its API fetches and completes only inside a running worker",
    }

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._app: Any = procrastinate.App(
            connector=procrastinate.SyncPsycopgConnector(conninfo=dsn, min_size=1, max_size=1)
        )
        self._task = self._register(self._app, lambda payload: None)
        self._app.open()

    @staticmethod
    def _register(app: Any, handled: Callable[[str], None]) -> Any:
        async def handle(payload: str) -> None:
            handled(payload)

        return app.task(name="bench", queue=QUEUE)(handle)

    def set_up(self) -> None:
        self._app.schema_manager.apply_schema()

    def enqueue(self, payload: str) -> None:
        self._task.defer(payload=payload)

    def enqueue_many(self, payloads: list[str]) -> None:
        self._task.batch_defer(*({"payload": payload} for payload in payloads))

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        asyncio.run(self._work(handled, stop))

    async def _work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=self._dsn))
        self._register(app, handled)
        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(
                    queues=[QUEUE],
                    concurrency=10,
                    listen_notify=True,
                    delete_jobs="successful",
                    install_signal_handlers=False,
                )
            )
            await asyncio.to_thread(stop.wait)
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker

    def cycle(self, payload: str) -> None:
        raise NotImplementedError(self.lacks["cycle"])

    def tear_down(self) -> None:
        self._app.close()
