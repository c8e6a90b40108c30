"""`pgque doctor`: looks at all that a queue needs, and says of each fault what mends it.

Each check is a function that takes an `Examination` and yields findings. They only read, take no
locks that others wait for, and cost the same whatever the backlog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pgque.doctor import consumers, events, locks, server
from pgque.doctor.finding import Examination, Finding, Status, warning
from pgque.errors import PgqueError

__all__ = ["Finding", "Status", "examine"]

Check = Callable[[Examination], Iterator[Finding]]

FIRST: dict[str, Check] = {
    "server": server.server,
    "settings": server.settings,
    "pooler": server.pooler,
    "schema": server.schema,
}
REST: dict[str, Check] = {
    "rights": server.rights,
    "row security": server.row_security,
    "notify": server.notifications,
    "locks": locks.held,
    "ticker": events.ticker,
    "pg_cron": events.scheduler,
    "restore": events.restored,
    "clock": events.clock,
    "queues": events.paused,
    "consumers": consumers.states,
    "retries": consumers.retries,
    "dead letters": consumers.dead_letters,
    "rotation": events.rotation,
    "transactions": server.old_transactions,
}
READ_TABLES = {"locks", "restore", "clock", "queues", "retries", "dead letters", "rotation"}
OBSERVE = {"consumers"}
"""Checks for which the user needs a role, or a grant for a queue."""
HOW_TO_SEE_ALL = "pgque doctor, with the DSN of a member of pgque_reader"


def examine(dsn: str) -> Iterator[Finding]:
    """Yield what is found in a database, check after check; stop where there is nothing to check.

    :param dsn: libpq connection string. Some checks need pgque_reader: a user without it is told
        which, and with grants for single queues sees what is the matter with those.
    """
    try:
        examination = Examination.begin(dsn)
    except PgqueError as error:
        yield Finding("server", Status.FAULT, str(error), "start it, or correct the DSN")
        return
    with examination:
        for name, check in FIRST.items():
            for finding in _run(name, check, examination):
                yield finding
                if finding.ends_all:
                    return
        closed = set() if examination.reads else set(READ_TABLES)
        closed |= set() if examination.observes else OBSERVE
        for name, check in REST.items():
            if name not in closed:
                yield from _run(name, check, examination)
        if closed:
            names = ", ".join(name for name in REST if name in closed)
            yield warning("not checked", f"{names}: they need pgque_reader", HOW_TO_SEE_ALL)


def _run(name: str, check: Check, examination: Examination) -> Iterator[Finding]:
    try:
        yield from check(examination)
    except PgqueError as error:
        yield Finding(name, Status.FAULT, str(error), "see the error: the check could not be made")
