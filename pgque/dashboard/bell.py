"""A thread wakes coroutines, in whichever event loop they wait."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class Bell:
    """Wakes all who wait. Nothing is queued: who was slow sees the newest state alone."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Wake everybody. May be called from any thread."""
        with self._guard:
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            with suppress(RuntimeError):  # its loop was closed
                future.get_loop().call_soon_threadsafe(_wake, future)

    def ticket(self) -> asyncio.Future[None]:
        """Return what the next ring completes: take it, look at the state, then wait for it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._guard:
            self._waiting.add(future)
        return future

    def forget(self, future: asyncio.Future[None]) -> None:
        """Give a ticket back."""
        with self._guard:
            self._waiting.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
