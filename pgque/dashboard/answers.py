"""What requests ask with, and what they are answered."""

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
    """JSON that no cache keeps; times are in ISO format."""

    def __init__(self, content: Any, status_code: int = 200) -> None:
        super().__init__(content, status_code, {"Cache-Control": "no-store"})

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        ).encode(errors="backslashreplace")  # a lone surrogate, which JSON writes like this too


async def on_pgque_error(_: Request, error: Exception) -> Answer:
    """Say what went wrong, as the command line does."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    text = str(error)
    if getattr(error, "sqlstate", None) == CANCELED:
        status, text = 503, "The database took too long: look for something narrower."
    return Answer({"code": "database", "error": text}, status)


def text(request: Request, name: str) -> str | None:
    """Return a parameter; None where it is missing or empty."""
    return request.query_params.get(name) or None


def needed(request: Request, name: str) -> str:
    """Return a parameter that has to be there."""
    value = text(request, name)
    if value is None:
        raise PgqueInvalidArgument(f"{name} is missing")
    return value


def number(value: Any, name: str, kind: type[int] | type[float] = int) -> Any:
    """Return a parameter as a number that is not negative."""
    try:
        found = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise PgqueInvalidArgument(f"{name} has to be a number, not {value!r}") from None
    if not 0 <= found < 2**63:  # NaN is neither
        raise PgqueInvalidArgument(f"{name} is out of range")
    return found


def moment(request: Request, name: str) -> datetime | None:
    """Return a parameter as a time with its zone; None where it is missing."""
    value = text(request, name)
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        raise PgqueInvalidArgument(f"{name} has to be a time in ISO format") from None
    if found.tzinfo is None:
        raise PgqueInvalidArgument(f"{name} has to have a time zone")
    return found


def place(value: str | None, name: str, parts: int) -> Place | None:
    """Return a place in a list, as `row` writes it, checked; None where it is missing."""
    if value is None:
        return None
    found = value.split("-")
    if len(found) != parts or not all(part.isascii() and part.isdigit() for part in found):
        raise PgqueInvalidArgument(f"{name} is not a place in a list")
    return tuple(number(part, name) for part in found)


async def body(request: Request) -> dict[str, Any]:
    """Return the JSON object that was sent."""
    found = b""
    async for chunk in request.stream():
        found += chunk
        if len(found) > LONGEST_BODY:
            raise PgqueInvalidArgument(f"more than {LONGEST_BODY} bytes were sent")
    try:
        value = json.loads(found)
    except RecursionError:
        raise PgqueInvalidArgument("what was sent is nested too deeply") from None
    except ValueError:
        raise PgqueInvalidArgument("what was sent is not JSON") from None
    if not isinstance(value, dict):
        raise PgqueInvalidArgument("what was sent is not a JSON object")
    return value


def page(found: Page[Any]) -> dict[str, Any]:
    """Return a page of a list as the page of the dashboard takes it."""
    return {
        "rows": [row(one) for one in found.rows],
        "more": None if found.more is None else _written(found.more),
        "looked_at": found.looked_at,
    }


def row(found: Stored) -> dict[str, Any]:
    """Return an event, a retry or a dead letter; its ids as text, since JavaScript rounds them."""
    ids = {name: str(value) for name in _IDS if (value := getattr(found, name, None)) is not None}
    return {**asdict(found), **ids, "place": _written(found.place)}


def _written(where: Place) -> str:
    return "-".join(map(str, where))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
