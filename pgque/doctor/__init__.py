"""`pgque doctor`: looks at all that a queue needs, and says of each fault what mends it.

Each check is a function that takes an `Examination` and yields findings. They only read, take no
locks that others wait for, and cost the same whatever the backlog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pgque.doctor import consumers, events, server
from pgque.doctor.finding import Examination, Finding, Status
from pgque.errors import PgqueError

__all__ = ["Finding", "Status", "examine"]

FIRST = (server.server, server.settings, server.pooler, server.schema)
REST = (
    server.rights,
    server.notifications,
    events.ticker,
    events.scheduler,
    events.restored,
    events.paused,
    consumers.stuck,
    consumers.retries,
    consumers.dead_letters,
    events.rotation,
    server.old_transactions,
)


def examine(dsn: str) -> Iterator[Finding]:
    """Yield what is found in a database, check after check; stop where there is nothing to check.

    :param dsn: libpq connection string; needs pgque_reader for most checks.
    """
    try:
        examination = Examination.begin(dsn)
    except PgqueError as error:
        yield Finding("server", Status.FAULT, str(error), "start it, or correct the DSN")
        return
    with examination:
        for check in FIRST:
            for finding in _run(check, examination):
                yield finding
                if finding.ends_all:
                    return
        for check in REST:
            yield from _run(check, examination)


def _run(
    check: Callable[[Examination], Iterator[Finding]], examination: Examination
) -> Iterator[Finding]:
    try:
        yield from check(examination)
    except PgqueError as error:
        name = check.__name__.replace("_", " ")
        yield Finding(name, Status.FAULT, str(error), "see the error: the check could not be made")
