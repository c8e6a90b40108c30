"""`pgque dashboard`: the application behind uvicorn."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from pgque.wire.background import stop_on_signals


class Server(uvicorn.Server):
    """A server that ends its streams when it stops, and whose caller handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    :raises OSError: where the port is taken or there is no such address.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except BaseException:
        listening.close()
        raise
    return listening


def serve(app: Starlette, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM, SIGINT or `stop` of what `serving` gave."""
    server = make_server(app)
    with stop_on_signals(lambda: stop(server, app)):
        ready()
        server.run(sockets=[listening])


def make_server(app: Starlette) -> Server:
    """Return a server for the application, not running."""
    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            loop="asyncio",
            http="h11",
            ws="none",
            timeout_graceful_shutdown=5,
        )
    )


def stop(server: Server, app: Starlette) -> None:
    """Let a server end: streams first, for it waits for what it is sending."""
    server.should_exit = True
    app.state.board.streams.close()
