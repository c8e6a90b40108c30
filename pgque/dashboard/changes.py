"""Routes that change something: they replay or delete dead letters, and need the token."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pgque.client import PgqueClient, connect
from pgque.dashboard.answers import Answer, body, number
from pgque.dashboard.context import context_of
from pgque.errors import PgqueDeadLetterNotFound, PgqueError, PgqueInvalidArgument
from pgque.logs import Fields
from pgque.wire.calls import SECONDS_A_DAY

logger = logging.getLogger("pgque.dashboard")

IDS_AT_MOST: Final = 200


async def token(_: Request) -> Response:
    """Confirm the token. `ApiGuard` has already refused a wrong one."""
    return Answer({"right": True})


async def replay(request: Request) -> Response:
    """Replay dead letters, each in its own transaction."""
    given = (await body(request)).get("letters")
    if not isinstance(given, list) or not 0 < len(given) <= IDS_AT_MOST:
        raise PgqueInvalidArgument(f"letters must be a list of 1 to {IDS_AT_MOST} ids")
    letters = [number(one, "letters") for one in given]

    def change(client: PgqueClient) -> dict[str, Any]:
        replayed, failed = 0, []
        for letter in letters:
            try:
                client.replay(letter)
                replayed += 1
            except PgqueDeadLetterNotFound:
                failed.append({"letter": str(letter), "error": "it no longer exists"})
            except PgqueError as error:
                if client.conn.broken:
                    raise
                failed.append({"letter": str(letter), "error": str(error)})
        logger.info(
            "dead letters replayed: %d of %d",
            replayed,
            len(letters),
            extra=Fields(messages=len(letters), failed=len(failed)),
        )
        return {"replayed": replayed, "failed": failed}

    return await _change(request, change)


async def replay_all(request: Request) -> Response:
    """Replay all dead letters of a queue."""
    queue = _queue(await body(request))

    def change(client: PgqueClient) -> dict[str, Any]:
        done = client.replay_all(queue)
        logger.info(
            "dead letters of %s replayed: %d, failed: %d",
            queue,
            *done[:2],
            extra=Fields(queue=queue, messages=done.replayed + done.failed, failed=done.failed),
        )
        failed = [{"letter": None, "error": done.first_error}] * min(done.failed, 1)
        return {"replayed": done.replayed, "failed": failed, "failures": done.failed}

    return await _change(request, change)


async def purge(request: Request) -> Response:
    """Delete dead letters of a queue that are older than a number of days."""
    given = await body(request)
    queue, days = _queue(given), number(given.get("days"), "days", float)

    def change(client: PgqueClient) -> dict[str, Any]:
        deleted = client.purge(queue, days * SECONDS_A_DAY)
        logger.info(
            "dead letters of %s deleted: %d, older than %g days",
            queue,
            deleted,
            days,
            extra=Fields(queue=queue, messages=deleted),
        )
        return {"deleted": deleted}

    return await _change(request, change)


ROUTES: Final = [
    Route("/token", token, methods=["POST"]),
    Route("/replay", replay, methods=["POST"]),
    Route("/replay-all", replay_all, methods=["POST"]),
    Route("/purge", purge, methods=["POST"]),
]


async def _change(request: Request, change: Callable[[PgqueClient], dict[str, Any]]) -> Answer:
    context = context_of(request)

    def done() -> dict[str, Any]:
        with connect(context.dsn, autocommit=True) as client:
            return change(client)

    return Answer(await context.in_thread(done))


def _queue(given: dict[str, Any]) -> str:
    queue = given.get("queue")
    if not isinstance(queue, str) or not queue:
        raise PgqueInvalidArgument("queue is missing")
    return queue
