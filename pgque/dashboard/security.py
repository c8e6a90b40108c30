"""Who may ask, and what a browser may do with the answer.

- A name in the Host header that was not allowed is refused: another site's name may have been made
  to lead to this address (DNS rebinding).
- Nothing can be changed without a token. It comes in a header of its own, which no form and no
  other site's page can set, and the page that asks has to be this one.
- Answers may not be framed, guessed at or fetched by other sites; scripts and styles come from
  here alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER: Final = "X-Pgque-Token"  # noqa: S105
SHORTEST_TOKEN: Final = 16
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Refuses names that are not allowed, and puts headers on every answer.

    :param allowed_hosts: names and addresses by which the page may be reached; ``*`` is any.
    """

    def __init__(self, app: ASGIApp, *, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._allowed = {host.lower().strip("[]") for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        app = self._app
        host = host_name(Headers(scope=scope).get("host", ""))
        if "*" not in self._allowed and host not in self._allowed:
            app = refused(
                "host",
                f"The name {host or '(none)'} is not one of those by which this page may be "
                "reached: allow it with --allow-host, or allowed_hosts of create_app.",
                status=421,
            )
        await app(scope, receive, send_with_headers)


class ApiGuard:
    """Refuses other sites, and who has no token where one is needed.

    :param token: what changes need; None where nothing can be changed.
    :param private: whether reading needs it too.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, private: bool) -> None:
        self._app = app
        self._token = token
        self._private = private

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        app = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            app = self._refusal(scope["method"], headers) or app
        await app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> ASGIApp | None:
        if headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            return refused("origin", "Another site may not ask this.")
        is_change = method not in {"GET", "HEAD"}
        if is_change:
            if not _same_origin(headers):
                return refused("origin", "Another site may not change anything.")
            if self._token is None:
                return refused("read-only", "It is read-only: it was started without a token.")
            if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return refused("type", "A change is sent as application/json.", status=415)
        if (is_change or self._private) and not self.is_right(headers.get(TOKEN_HEADER)):
            return refused("token", "The token is missing or wrong.")
        return None

    def is_right(self, given: str | None) -> bool:
        """Compare a token with the right one, in a time that says nothing of either."""
        return (
            given is not None
            and self._token is not None
            and hmac.compare_digest(given.encode(), self._token.encode())
        )


def refused(code: str, error: str, *, status: int = 403) -> JSONResponse:
    """Return the answer that says why nothing was done."""
    return JSONResponse({"code": code, "error": error}, status)


def host_name(header: str) -> str:
    """Return the name or address in a Host header, without the port and brackets."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _same_origin(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is None:  # not a browser; the token says who it is
        return True
    return origin.partition("://")[2].lower() == headers.get("host", "").lower()
