"""`pgque doctor`: checks everything that a queue needs, and names the fix for each fault.

Each check is a function that takes an `Examination` and yields findings. Checks only read. They
take no lock that could block other sessions, and their cost does not depend on the backlog.
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
"""Checks that need pgque_reader, and checks that also run with a grant for a queue."""
HOW_TO_SEE_ALL = "run pgque doctor with the DSN of a member of pgque_reader"


def examine(dsn: str) -> Iterator[Finding]:
    """Check a database and yield the findings. Stop early if the rest cannot be checked.

    :param dsn: libpq connection string. Some checks need pgque_reader. For a user without it, the
        last finding names them. A user with grants for single queues gets the findings for those.
    """
    try:
        examination = Examination.begin(dsn)
    except PgqueError as error:
        yield Finding("server", Status.FAULT, str(error), "start the server or correct the DSN")
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
        yield Finding(name, Status.FAULT, str(error), "the check failed: see the error")
