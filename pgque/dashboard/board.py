"""What the requests of one application share."""

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
"""How many connections viewers have together beside the one that takes samples."""

T = TypeVar("T")


class Board:
    """The database, who looks at it and who may change it."""

    def __init__(self, dsn: str, sampler: Sampler, streams: Streams, *, can_change: bool) -> None:
        self.dsn = dsn
        self.sampler = sampler
        self.streams = streams
        self.can_change = can_change
        self._limiter: anyio.CapacityLimiter | None = None
        self._guard = threading.Lock()

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call what waits for the database in a thread, a few at a time."""
        with self._guard:
            if self._limiter is None:
                self._limiter = anyio.CapacityLimiter(AT_ONCE)
        return await anyio.to_thread.run_sync(function, limiter=self._limiter)


def board_of(request: Request) -> Board:
    """Return what a request shares with the others."""
    board: Board = request.app.state.board
    return board
