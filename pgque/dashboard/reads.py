"""Routes that only read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pgque.dashboard.answers import Answer, moment, needed, number, page, place, row, text
from pgque.dashboard.context import context_of
from pgque.dashboard.snapshot import reading_connection
from pgque.errors import PgqueDeadLetterNotFound
from pgque.watching.browse import PAGE, Browser, Place, Stored, Wanted
from pgque.wire.calls import SECONDS_A_DAY, find_queue, to_interval

COUNTED: Final = 100_000

_PURGEABLE: Final = sql.SQL(
    "select count(*) from (select from pgque.dead_letter d where d.dl_queue_id = %s::int "
    "and d.dl_time <= clock_timestamp() - %s::interval limit %s::int) counted"
)


async def about(request: Request) -> Response:
    """Return the name of the database, and what the dashboard allows."""
    context = context_of(request)
    given = conninfo_to_dict(context.dsn)
    host = str(given.get("host") or "")
    parts = [host if not host.startswith("/") else "", str(given.get("dbname") or "")]
    return Answer(
        {
            "where": "/".join(filter(None, parts)),
            "changes": context.can_change,
            "private": request.app.state.private,
        }
    )


async def stream(request: Request) -> Response:
    """Return a stream of frames for ``queue`` or for the overview."""
    return context_of(request).streams.open(text(request, "queue"))


async def history(request: Request) -> Response:
    """Return the points of the plots for ``queue`` or for the overview."""
    context = context_of(request)
    context.sampler.start()
    times, lines = await context.in_thread(
        lambda: context.sampler.history.read(text(request, "queue"))
    )
    plots: dict[str, dict[str, list[float | None]]] = {"rate": {}, "lag": {}, "latency": {}}
    for key, line in lines.items():
        plots[key.plot][key.name] = line
    return Answer({"times": times, "plots": plots})


async def messages(request: Request) -> Response:
    """Return a page of a queue's log."""
    queue, wanted, limit = _search(request)
    until = moment(request, "until")
    after = place(text(request, "after"), "after", 2)
    return await _browse(
        request, lambda b: page(b.messages(queue, wanted, until=until, after=after, limit=limit))
    )


async def message(request: Request) -> Response:
    """Return one message in full."""
    queue, where = needed(request, "queue"), _place(request)
    return await _browse(request, lambda b: _whole(b.message(queue, where)))


async def dead_letters(request: Request) -> Response:
    """Return a page of a queue's dead letters."""
    queue, wanted, limit = _search(request)
    after = place(text(request, "after"), "after", 1)
    return await _browse(
        request, lambda b: page(b.dead_letters(queue, wanted, after=after, limit=limit))
    )


async def dead_letter(request: Request) -> Response:
    """Return one dead letter in full."""
    letter = number(needed(request, "letter"), "letter")

    def look(browser: Browser) -> dict[str, Any]:
        found = browser.dead_letter(letter)
        if found is None:
            raise PgqueDeadLetterNotFound(f"dead letter entry not found: {letter}")
        return _whole(found)

    return await _browse(request, look)


async def retries(request: Request) -> Response:
    """Return a page of a queue's retries."""
    queue, wanted, limit = _search(request)
    return await _browse(request, lambda b: page(b.retries(queue, wanted, limit=limit)))


async def retry(request: Request) -> Response:
    """Return one retry in full."""
    where = _place(request)
    return await _browse(request, lambda b: _whole(b.retry(where)))


async def purgeable(request: Request) -> Response:
    """Count the dead letters that a purge would delete, up to `COUNTED`."""
    queue = needed(request, "queue")
    age = to_interval(number(needed(request, "days"), "days", float) * SECONDS_A_DAY, "days")

    def count(browser: Browser) -> dict[str, Any]:
        values = (find_queue(browser.conn, queue)[0], age, COUNTED)
        return {"count": browser.read(_PURGEABLE, values)[0][0]}

    return await _browse(request, count)


ROUTES: Final = [
    Route("/about", about),
    Route("/stream", stream),
    Route("/history", history),
    Route("/messages", messages),
    Route("/message", message),
    Route("/dead", dead_letters),
    Route("/letter", dead_letter),
    Route("/retries", retries),
    Route("/retry", retry),
    Route("/purgeable", purgeable),
]


async def _browse(request: Request, look: Callable[[Browser], dict[str, Any]]) -> Answer:
    context = context_of(request)

    def found() -> dict[str, Any]:
        with reading_connection(context.dsn) as conn:
            return look(Browser(conn))

    return Answer(await context.in_thread(found))


def _place(request: Request) -> Place:
    return place(needed(request, "place"), "place", 2) or ()


def _whole(found: Stored | None) -> dict[str, Any]:
    return {"row": None if found is None else row(found)}


def _search(request: Request) -> tuple[str, Wanted, int]:
    wanted = Wanted(**{name: text(request, name) for name in ("type", "key", "text", "consumer")})
    limit = number(text(request, "limit") or PAGE, "limit")
    return needed(request, "queue"), wanted, limit
