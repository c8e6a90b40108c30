"""Server-sent events: the newest state whenever there is a new one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from starlette.responses import StreamingResponse

from pgque.dashboard.sampler import Sampler

LENGTH: Final = 60.0
"""Seconds after which a stream ends and the page asks for the next one. A server that stops waits
for the answers that it is giving: so for no longer than this."""
KEEPALIVE: Final = 10.0
"""Seconds after which something is sent although nothing is new."""


class Streams:
    """The streams of one application.

    :param length: seconds that each lasts, default 60.
    """

    def __init__(self, sampler: Sampler, *, length: float = LENGTH) -> None:
        self._sampler = sampler
        self._length = length
        self._closing = False

    def open(self, queue: str | None) -> StreamingResponse:
        """Return a stream of one queue's frames, or of the overview's."""
        return StreamingResponse(
            self._events(queue),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    def close(self) -> None:
        """End all streams, since the server stops. May be called from any thread."""
        self._closing = True
        self._sampler.bell.ring()

    async def _events(self, queue: str | None) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._length
        seen = -1
        with self._sampler.viewer():
            while not self._closing and (left := end - loop.time()) > 0:
                ticket = self._sampler.bell.ticket()
                try:
                    number = self._sampler.state.number
                    if number != seen:
                        seen, frame = await asyncio.to_thread(self._sampler.encoded, queue)
                        yield b"event: frame\ndata: " + frame + b"\n\n"
                        continue
                    done, _ = await asyncio.wait([ticket], timeout=min(KEEPALIVE, left))
                    if not done:
                        yield b": nothing new\n\n"
                finally:
                    self._sampler.bell.forget(ticket)
