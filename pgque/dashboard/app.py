"""Builds the application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
from psycopg.conninfo import conninfo_to_dict
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pgque.dashboard import changes, reads
from pgque.dashboard.answers import on_pgque_error
from pgque.dashboard.context import Context
from pgque.dashboard.sampler import Sampler
from pgque.dashboard.security import LOOPBACK, SHORTEST_TOKEN, ApiGuard, Guard
from pgque.dashboard.stream import LENGTH, Streams
from pgque.errors import PgqueError, PgqueInvalidArgument, mapped

STATIC: Final = Path(__file__).with_name("static")


def create_app(
    dsn: str,
    *,
    token: str | None = None,
    private: bool = False,
    allowed_hosts: Iterable[str] = LOOPBACK,
    every: float = 1.0,
    always: bool = False,
    stream_seconds: float = LENGTH,
) -> Starlette:
    """Return the dashboard as a Starlette application. Serve it, or mount it under any path.

    One thread takes samples, from the first request until half an hour after the last viewer left.
    The role in ``dsn`` needs pgque_reader, also pgque_writer to replay and pgque_admin to purge.

    :param dsn: libpq connection string.
    :param token: the token that replay and purge require, at least 16 characters. Without one (the
        default) the dashboard is read-only.
    :param private: whether reading requires the token too, default False.
    :param allowed_hosts: host names and addresses that clients may use, default only this machine's
        (``localhost``, ``127.0.0.1``, ``::1``); ``*`` allows any.
    :param every: seconds between samples, default 1.
    :param always: whether to take samples even without viewers, default False.
    :param stream_seconds: how long a stream of events lasts before the page requests the next one,
        default 60. A server that stops may have to wait this long.
    :raises PgqueInvalidArgument: for an invalid DSN, a token that is too short, or ``private``
        without a token.
    """
    with mapped:
        conninfo_to_dict(dsn)
    _check(token, private)
    sampler = Sampler(dsn, every=every, always=always)
    context = Context(
        dsn, sampler, Streams(sampler, length=stream_seconds), can_change=token is not None
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sampler.start()
        try:
            yield
        finally:
            context.streams.close()
            await anyio.to_thread.run_sync(sampler.stop)

    app = Starlette(
        routes=[
            Route("/", page),
            Mount("/static", StaticFiles(directory=STATIC)),
            Mount(
                "/api",
                routes=[*reads.ROUTES, *changes.ROUTES],
                middleware=[Middleware(ApiGuard, token=token, private=private)],
            ),
        ],
        middleware=[Middleware(Guard, allowed_hosts=list(allowed_hosts))],
        exception_handlers={PgqueError: on_pgque_error},
        lifespan=lifespan,
    )
    app.state.context = context
    app.state.private = private
    return app


async def page(_: Request) -> Response:
    """Return the HTML page. It contains no private data."""
    return FileResponse(STATIC / "index.html", media_type="text/html")


def _check(token: Any, private: bool) -> None:
    if token is None:
        if private:
            raise PgqueInvalidArgument("private needs a token")
        return
    if not isinstance(token, str) or len(token) < SHORTEST_TOKEN or not _fits_a_header(token):
        raise PgqueInvalidArgument(
            f"the token must be {SHORTEST_TOKEN} or more printable ASCII characters without "
            "spaces: make one with python -c 'import secrets; print(secrets.token_urlsafe())'"
        )


def _fits_a_header(token: str) -> bool:
    return token.isascii() and token.isprintable() and " " not in token
