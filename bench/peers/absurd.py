"""absurd-sdk: `Absurd.create_queue`, `spawn`, `start_worker`, `work_batch`.

The schema is not in absurd-sdk: it is bundled in its own command line tool, absurdctl from PyPI,
whose `init` needs `psql`. If the system has none, the embedded server's is used.

Settings: it has no LISTEN/NOTIFY; a worker polls. `poll_interval` is 2 ms instead of 250, the
interval of pgque's ticker. `batch_size` is 20, so that a worker does not query for every task.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import absurd_sdk

from bench.peers import QUEUE, when
from pgque.embedded.binaries import find_binaries

if importlib.util.find_spec("absurdctl") is None:
    raise ImportError("absurdctl, which brings the schema of absurd-sdk, is not installed")

POLL_SECONDS = 0.002
BATCH_SIZE = 20


class Absurd:
    """absurd-sdk with its synchronous client."""

    name: ClassVar[str] = "absurd"
    package: ClassVar[str] = "absurd-sdk"
    lacks: ClassVar[dict[str, str]] = {"bulk": "its API spawns one task at a time"}

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._app: Any = absurd_sdk.Absurd(dsn, queue_name=QUEUE)
        self._handled: Callable[[str], None] = lambda payload: None
        self._app.register_task(name="bench")(self._handle)

    def _handle(self, params: dict[str, str], context: Any) -> None:
        self._handled(params["payload"])

    def set_up(self) -> None:
        path = os.environ["PATH"]
        if shutil.which("psql") is None:
            path = f"{find_binaries(18).bin}:{path}"
        subprocess.run(
            [sys.executable, "-c", "import absurdctl; absurdctl.main()", "init", "-d", self._dsn],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path},
        )
        self._app.create_queue(QUEUE)

    def enqueue(self, payload: str) -> None:
        self._app.spawn("bench", {"payload": payload})

    def enqueue_many(self, payloads: list[str]) -> None:
        raise NotImplementedError(self.lacks["bulk"])

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        self._handled = handled
        when(stop, self._app.stop_worker)
        self._app.start_worker(batch_size=BATCH_SIZE, poll_interval=POLL_SECONDS)

    def cycle(self, payload: str) -> None:
        self.enqueue(payload)
        self._app.work_batch()

    def tear_down(self) -> None:
        self._app.close()
