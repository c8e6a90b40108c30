"""What the page reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from psycopg.conninfo import conninfo_to_dict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pgque.dashboard.answers import Answer, moment, needed, number, place, text
from pgque.dashboard.browse import PAGE, Browser, Page, Wanted
from pgque.dashboard.looking import reading_connection

if TYPE_CHECKING:
    from pgque.dashboard.app import Board


async def about(request: Request) -> Response:
    """Say what may be done, and which database this is."""
    board = _board(request)
    given = conninfo_to_dict(board.dsn)
    host = str(given.get("host") or "")
    parts = [host if not host.startswith("/") else "", str(given.get("dbname") or "")]
    return Answer(
        {
            "where": "/".join(filter(None, parts)),
            "changes": board.can_change,
            "private": request.app.state.private,
        }
    )


async def stream(request: Request) -> Response:
    """Return a stream of frames: of ``queue``, or of the overview."""
    return _board(request).streams.open(text(request, "queue"))


async def history(request: Request) -> Response:
    """Return the points of plots: of ``queue``, or of all queues together."""
    board = _board(request)
    board.sampler.start()
    times, lines = await board.in_thread(lambda: board.sampler.history.read(text(request, "queue")))
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
        request, lambda b: _page(b.messages(queue, wanted, until=until, after=after, limit=limit))
    )


async def message(request: Request) -> Response:
    """Return one message, whole."""
    queue = needed(request, "queue")
    where = place(needed(request, "place"), "place", 2) or ""
    return await _browse(request, lambda b: {"row": b.message(queue, where)})


async def dead_letters(request: Request) -> Response:
    """Return a page of a queue's dead letters."""
    queue, wanted, limit = _search(request)
    after = place(text(request, "after"), "after", 1)
    return await _browse(
        request, lambda b: _page(b.dead_letters(queue, wanted, after=after, limit=limit))
    )


async def dead_letter(request: Request) -> Response:
    """Return one dead letter, whole."""
    letter = number(needed(request, "letter"), "letter")
    return await _browse(request, lambda b: {"row": b.dead_letter(letter)})


async def retries(request: Request) -> Response:
    """Return events of a queue that wait to be delivered again."""
    queue, wanted, limit = _search(request)
    return await _browse(request, lambda b: _page(b.retries(queue, wanted, limit=limit)))


async def purgeable(request: Request) -> Response:
    """Count what a purge would delete."""
    queue = needed(request, "queue")
    days = number(needed(request, "days"), "days", float)
    return await _browse(request, lambda b: {"count": b.count_purgeable(queue, days)})


ROUTES: Final = [
    Route("/about", about),
    Route("/stream", stream),
    Route("/history", history),
    Route("/messages", messages),
    Route("/message", message),
    Route("/dead", dead_letters),
    Route("/letter", dead_letter),
    Route("/retries", retries),
    Route("/purgeable", purgeable),
]


def _board(request: Request) -> Board:
    board: Board = request.app.state.board
    return board


async def _browse(request: Request, look: Callable[[Browser], dict[str, Any]]) -> Answer:
    board = _board(request)

    def found() -> dict[str, Any]:
        with reading_connection(board.dsn) as conn:
            return look(Browser(conn))

    return Answer(await board.in_thread(found))


def _search(request: Request) -> tuple[str, Wanted, int]:
    wanted = Wanted(**{name: text(request, name) for name in ("type", "key", "text", "consumer")})
    limit = number(text(request, "limit") or PAGE, "limit")
    return needed(request, "queue"), wanted, limit


def _page(page: Page) -> dict[str, Any]:
    return page._asdict()
