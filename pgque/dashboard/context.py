"""The state that all requests of an application share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from pgque.dashboard.sampler import Sampler
from pgque.dashboard.stream import Streams

AT_ONCE: Final = 4
"""The number of connections that all viewers share, besides the sampler's."""

T = TypeVar("T")


class Context:
    """The shared state of an application: its database, its sampler and its streams."""

    def __init__(self, dsn: str, sampler: Sampler, streams: Streams, *, can_change: bool) -> None:
        self.dsn = dsn
        self.sampler = sampler
        self.streams = streams
        self.can_change = can_change
        self._limiter: anyio.CapacityLimiter | None = None
        self._guard = threading.Lock()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call a blocking function in a thread, at most `AT_ONCE` at a time."""
        with self._guard:
            if self._limiter is None:
                self._limiter = anyio.CapacityLimiter(AT_ONCE)
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)


def context_of(request: Request) -> Context:
    """Return the context of the request's application."""
    context: Context = request.app.state.context
    return context
