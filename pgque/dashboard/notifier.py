"""Lets a thread wake coroutines in any event loop."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class Notifier:
    """Wakes all waiting coroutines. It queues nothing: a slow one sees only the newest state."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake all waiting coroutines. May be called from any thread."""
        with self._guard:
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            with suppress(RuntimeError):  # its loop was closed
                future.get_loop().call_soon_threadsafe(_wake, future)

    def waiter(self) -> asyncio.Future[None]:
        """Return a future that the next `notify` completes.

        Get it before reading the state, then await it, so that no change is missed.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._guard:
            self._waiting.add(future)
        return future

    def discard(self, future: asyncio.Future[None]) -> None:
        """Remove a future that is no longer awaited."""
        with self._guard:
            self._waiting.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
