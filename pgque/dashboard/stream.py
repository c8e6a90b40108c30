"""Server-sent events: each new state is sent to the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.responses import StreamingResponse

from pgque.dashboard.sampler import Sampler

LENGTH: Final = 60.0
"""Seconds after which a stream ends and the page requests the next one. A server that stops waits
for open responses, so this limits that wait."""
KEEPALIVE: Final = 10.0
"""Seconds without a new state after which a comment is sent to keep the connection alive."""


class Streams:
    """The streams of one application.

    :param length: the duration of each in seconds, default 60.
    """

    def __init__(self, sampler: Sampler, *, length: float = LENGTH) -> None:
        self._sampler = sampler
        self._length = length
        self._closing = False

    def open(self, queue: str | None) -> StreamingResponse:
        """Return a stream of frames for one queue, or for the overview."""
        return StreamingResponse(
            self._events(queue),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    def close(self) -> None:
        """End all streams before the server stops. May be called from any thread."""
        self._closing = True
        self._sampler.notifier.notify()

    async def _events(self, queue: str | None) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._length
        seen = -1
        with self._sampler.viewer():
            while not self._closing and (left := end - loop.time()) > 0:
                waiter = self._sampler.notifier.waiter()
                try:
                    number = self._sampler.state.number
                    if number != seen:
                        seen, frame = await asyncio.to_thread(self._sampler.encoded, queue)
                        yield b"event: frame\ndata: " + frame + b"\n\n"
                        continue
                    done, _ = await asyncio.wait([waiter], timeout=min(KEEPALIVE, left))
                    if not done:
                        yield b": nothing new\n\n"
                finally:
                    self._sampler.notifier.discard(waiter)
