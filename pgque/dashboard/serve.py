"""Serves the application with uvicorn, for `pgque dashboard`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from pgque.wire.background import stop_on_signals


class Server(uvicorn.Server):
    """A server that leaves signals to its caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    :raises OSError: if the port is in use or the address does not exist.
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
    """Serve until SIGTERM or SIGINT."""
    server = make_server(app)
    with stop_on_signals(lambda: stop(server, app)):
        ready()
        server.run(sockets=[listening])


def make_server(app: Starlette) -> Server:
    """Return a server for the application. It is not started."""
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
    """Stop a server. Its streams are closed first, because it waits for open responses."""
    server.should_exit = True
    app.state.context.streams.close()
