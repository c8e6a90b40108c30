"""Access control: which requests are accepted, and what browsers may do with the responses.

- A request is refused if its Host header holds a name that is not allowed: another site may have
  made its name point to this address (DNS rebinding).
- Changes need a token in a custom header, which no form and no page of another site can set. They
  must come from this page's own origin.
- Responses may not be framed, sniffed or fetched by other sites. Scripts and styles come only from
  this origin.
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
    """Refuses host names that are not allowed, and adds security headers to every response.

    :param allowed_hosts: host names and addresses that clients may use; ``*`` allows any.
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
                f"The host name {host or '(none)'} is not allowed. Allow it with --allow-host, or "
                "with allowed_hosts of create_app.",
                status=421,
            )
        await app(scope, receive, send_with_headers)


class ApiGuard:
    """Refuses requests of other sites, and requests without a token if they need one.

    :param token: the token that changes need; None allows no changes.
    :param private: whether reading needs the token too.
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
            return refused("origin", "Requests from other sites are refused.")
        is_change = method not in {"GET", "HEAD"}
        if is_change:
            if not _same_origin(headers):
                return refused("origin", "Changes from other sites are refused.")
            if self._token is None:
                return refused("read-only", "Read-only: the dashboard was started without a token.")
            if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return refused("type", "Changes must be sent as application/json.", status=415)
        if (is_change or self._private) and not self.is_right(headers.get(TOKEN_HEADER)):
            return refused("token", "The token is missing or wrong.")
        return None

    def is_right(self, given: str | None) -> bool:
        """Compare a token with the right one in constant time."""
        return (
            given is not None
            and self._token is not None
            and hmac.compare_digest(given.encode(), self._token.encode())
        )


def refused(code: str, error: str, *, status: int = 403) -> JSONResponse:
    """Return the response to a refused request."""
    return JSONResponse({"code": code, "error": error}, status)


def host_name(header: str) -> str:
    """Return the name or address in a Host header, without the port and brackets."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _same_origin(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is None:  # not a browser; the token authenticates it
        return True
    return origin.partition("://")[2].lower() == headers.get("host", "").lower()
