"""The result of a check, and the connection that checks use."""

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
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    check: str
    status: Status
    detail: str
    mend: str | None = None
    """The command that fixes it, or advice if there is no single command."""
    ends_all: bool = False
    """Whether nothing else can be checked."""


class Examination(Calls):
    """The connection that checks use; a context manager that closes it."""

    def __init__(self, conn: psycopg.Connection[Any], dsn: str) -> None:
        super().__init__(conn)
        self.dsn = dsn
        self.pooled = settle_for_pooler(conn)

    @classmethod
    def begin(cls, dsn: str) -> Examination:
        """Connect. Raises `PgqueConnectionError` if no server answers."""
        with mapped:
            conn = psycopg.connect(dsn, autocommit=True, **connection_defaults(dsn))
        return cls(conn, dsn)

    def rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self._times(query, params)

    def value(self, query: str, params: Sequence[Any] = ()) -> Any:
        """Return the single value of a query."""
        return self._value(query, params)

    @cached_property
    def reads(self) -> bool:
        """Whether the user may read the tables: pgque_reader or more."""
        return bool(self.value("select has_table_privilege('pgque.queue', 'select')"))

    @cached_property
    def observes(self) -> bool:
        """Whether the user may list queues and consumers, at least those it has grants for."""
        return self.may_execute("pgque.get_queue_info(text)")

    def may_execute(self, function: str) -> bool:
        """Return whether the user may call a function."""
        return bool(self.value("select has_function_privilege(%s, 'execute')", (function,)))

    def __enter__(self) -> Examination:
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.close()


def ok(check: str, detail: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Status.OK, detail)


def warning(check: str, detail: str, mend: str) -> Finding:
    """Return a finding that needs attention."""
    return Finding(check, Status.WARNING, detail, mend)


def fault(check: str, detail: str, mend: str, *, ends_all: bool = False) -> Finding:
    """Return a finding for something that does not work."""
    return Finding(check, Status.FAULT, detail, mend, ends_all)
