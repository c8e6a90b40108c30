"""What a check finds, and what it has to look with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import psycopg

from pgque.errors import mapped
from pgque.wire.calls import Calls, connection_defaults, settle_for_pooler


class Status(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    check: str
    status: Status
    detail: str
    mend: str | None = None
    """The one command that mends it, or what to do where there is none."""
    ends_all: bool = False
    """Nothing else can be checked then."""


class Examination(Calls):
    """A connection to look through; a context manager that closes it."""

    def __init__(self, conn: psycopg.Connection[Any], dsn: str) -> None:
        super().__init__(conn)
        self.dsn = dsn
        self.pooled = settle_for_pooler(conn)

    @classmethod
    def begin(cls, dsn: str) -> Examination:
        """Connect; raise `PgqueConnectionError` where nobody answers."""
        with mapped:
            conn = psycopg.connect(dsn, autocommit=True, **connection_defaults(dsn))
        return cls(conn, dsn)

    def rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self._times(query, params)

    def value(self, query: str, params: Sequence[Any] = ()) -> Any:
        """Return the one value of a query."""
        return self._value(query, params)

    @cached_property
    def reads(self) -> bool:
        """Whether the user may read the tables: pgque_reader or more."""
        return bool(self.value("select has_table_privilege('pgque.queue', 'select')"))

    @cached_property
    def observes(self) -> bool:
        """Whether the user may ask for queues and consumers: all, or those he has grants for."""
        return self.may_execute("pgque.get_queue_info(text)")

    def may_execute(self, function: str) -> bool:
        """Return whether the user may call a function."""
        return bool(self.value("select has_function_privilege(%s, 'execute')", (function,)))

    def __enter__(self) -> Examination:
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()


def ok(check: str, detail: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Status.OK, detail)


def warning(check: str, detail: str, mend: str) -> Finding:
    """Return a finding that somebody should look at."""
    return Finding(check, Status.WARNING, detail, mend)


def fault(check: str, detail: str, mend: str, *, ends_all: bool = False) -> Finding:
    """Return a finding that something does not work."""
    return Finding(check, Status.FAULT, detail, mend, ends_all)
