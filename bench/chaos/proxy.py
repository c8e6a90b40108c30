"""A TCP proxy between clients and the server that misbehaves on demand.

It runs an event loop in its own thread. As a black hole it passes no data, and it accepts new
connections without answering. When the black hole ends, it resets the connections whose data it
swallowed, like a firewall that lost its state.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: closing resets the connection."""


class Proxy:
    """Forwards TCP connections on 127.0.0.1 to a server's Unix socket or TCP port.

    ``upstream`` is the path of a socket, or host and port. A context manager.
    """

    def __init__(self, upstream: str | tuple[str, int], port: int = 0) -> None:
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._links: set[_Link] = set()
        self._open = asyncio.Event()
        self._delay = 0.0
        self._wanted_port = port
        self.port = 0
        self.refusing = False

    def connections(self) -> int:
        """The number of open connections."""
        return len(self._links)

    def drop(self, share: float, chance: random.Random) -> int:
        """Reset a share of the connections, at least one. Return how many."""

        async def drop() -> int:
            links = sorted(self._links, key=id)
            if not links:
                return 0
            chosen = chance.sample(links, max(1, round(len(links) * share)))
            for link in chosen:
                link.reset()
            return len(chosen)

        return int(self._do(drop()))

    def delay(self, seconds: float) -> None:
        """Delay all traffic by this many seconds from now on; 0 ends it."""
        self._delay = seconds

    def swallow(self) -> None:
        """Start the black hole."""

        async def swallow() -> None:
            self._open.clear()

        self._do(swallow())

    def spit(self) -> None:
        """End the black hole and reset its connections."""

        async def spit() -> None:
            self._open.set()
            for link in list(self._links):
                if link.swallowed:
                    link.reset()

        self._do(spit())

    async def _pause(self, link: _Link) -> None:
        if not self._open.is_set():
            link.swallowed = True
            await self._open.wait()
        if self._delay:
            await asyncio.sleep(self._delay)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        _notice_a_client_that_is_gone(writer.get_extra_info("socket"))
        try:
            if self.refusing:
                return
            await self._pause(link)
            if isinstance(self._upstream, str):
                there = await asyncio.open_unix_connection(self._upstream)
            else:
                there = await asyncio.open_connection(*self._upstream)
            link.writers.append(there[1])
            await asyncio.gather(
                self._pass(link, reader, there[1]), self._pass(link, there[0], writer)
            )
        except (OSError, asyncio.IncompleteReadError, _Ended):
            pass
        finally:
            self._links.discard(link)
            link.reset()

    async def _pass(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(CHUNK):
            await self._pause(link)
            writer.write(data)
            await writer.drain()
        raise _Ended

    def _do(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def __enter__(self) -> Self:
        self._thread.start()

        async def listen() -> asyncio.Server:
            self._open.set()
            return await asyncio.start_server(
                self._serve, "127.0.0.1", self._wanted_port, limit=CHUNK
            )

        self._server: asyncio.Server = self._do(listen())
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async def end() -> None:
            self._server.close()
            for link in list(self._links):
                link.reset()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _notice_a_client_that_is_gone(connection: socket.socket) -> None:
    """Do what the server would be asked to do, if it were the one that the client talks to."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 10_000),
    ):
        if hasattr(socket, name):  # Linux has all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Ended(Exception):
    """Close the other connection when one side has closed its own."""


class _Link:
    """A client's connection and its connection to the server."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.swallowed = False

    def reset(self) -> None:
        for writer in self.writers:
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
