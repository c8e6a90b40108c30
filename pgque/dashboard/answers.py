"""Parses the parameters of requests and formats the responses."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from pgque.errors import (
    PgqueConnectionError,
    PgqueDeadLetterNotFound,
    PgqueError,
    PgqueInvalidArgument,
    PgquePermissionDenied,
    PgqueQueueNotFound,
)
from pgque.watching.browse import Page, Place, Stored

LONGEST_BODY: Final = 64 * 1024
CANCELED: Final = "57014"

_IDS: Final = ("id", "txid", "owner", "letter")

_STATUS: Final[tuple[tuple[type[PgqueError], int], ...]] = (
    (PgqueQueueNotFound, 404),
    (PgqueDeadLetterNotFound, 404),
    (PgquePermissionDenied, 403),
    (PgqueInvalidArgument, 400),
    (PgqueConnectionError, 503),
)


class Answer(JSONResponse):
    """A JSON response that must not be cached. Times are in ISO format."""

    def __init__(self, content: Any, status_code: int = 200) -> None:
        super().__init__(content, status_code, {"Cache-Control": "no-store"})

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        ).encode(errors="backslashreplace")  # writes a lone surrogate as JSON does


async def on_pgque_error(_: Request, error: Exception) -> Answer:
    """Return the error's text, as the command line prints it."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    text = str(error)
    if getattr(error, "sqlstate", None) == CANCELED:
        status, text = 503, "The database took too long. Narrow the search."
    return Answer({"code": "database", "error": text}, status)


def text(request: Request, name: str) -> str | None:
    """Return a parameter; None if it is missing or empty."""
    return request.query_params.get(name) or None


def needed(request: Request, name: str) -> str:
    """Return a required parameter."""
    value = text(request, name)
    if value is None:
        raise PgqueInvalidArgument(f"{name} is missing")
    return value


def number(value: Any, name: str, kind: type[int] | type[float] = int) -> Any:
    """Return a parameter as a number; it must not be negative."""
    try:
        found = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise PgqueInvalidArgument(f"{name} must be a number, not {value!r}") from None
    if not 0 <= found < 2**63:  # also rejects NaN
        raise PgqueInvalidArgument(f"{name} is out of range")
    return found


def moment(request: Request, name: str) -> datetime | None:
    """Return a parameter as a time with a time zone; None if it is missing."""
    value = text(request, name)
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        raise PgqueInvalidArgument(f"{name} must be a time in ISO format") from None
    if found.tzinfo is None:
        raise PgqueInvalidArgument(f"{name} needs a time zone")
    return found


def place(value: str | None, name: str, parts: int) -> Place | None:
    """Parse and check a place in a list, in the format of `row`; None if it is missing."""
    if value is None:
        return None
    found = value.split("-")
    if len(found) != parts or not all(part.isascii() and part.isdigit() for part in found):
        raise PgqueInvalidArgument(f"{name} is not a place in a list")
    return tuple(number(part, name) for part in found)


async def body(request: Request) -> dict[str, Any]:
    """Return the JSON object in the request's body."""
    found = b""
    async for chunk in request.stream():
        found += chunk
        if len(found) > LONGEST_BODY:
            raise PgqueInvalidArgument(f"the body is longer than {LONGEST_BODY} bytes")
    try:
        value = json.loads(found)
    except RecursionError:
        raise PgqueInvalidArgument("the body is nested too deeply") from None
    except ValueError:
        raise PgqueInvalidArgument("the body is not JSON") from None
    if not isinstance(value, dict):
        raise PgqueInvalidArgument("the body is not a JSON object")
    return value


def page(found: Page[Any]) -> dict[str, Any]:
    """Return a page of a list in the dashboard's format."""
    return {
        "rows": [row(one) for one in found.rows],
        "more": None if found.more is None else _written(found.more),
        "looked_at": found.looked_at,
    }


def row(found: Stored) -> dict[str, Any]:
    """Return an event, a retry or a dead letter. Ids are text: JavaScript would round them."""
    ids = {name: str(value) for name in _IDS if (value := getattr(found, name, None)) is not None}
    return {**asdict(found), **ids, "place": _written(found.place)}


def _written(where: Place) -> str:
    return "-".join(map(str, where))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
