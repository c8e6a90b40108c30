"""Databases for tests: created empty or as copies of a template, and dropped."""

from __future__ import annotations

import itertools
import os
import secrets
from types import TracebackType
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgque.dsn import to_url

FILE_COPY_SINCE: Final = 150000
ENDS_WITHIN: Final = 30_000
"""Milliseconds to wait for a terminated session to end."""

_numbers = itertools.count(1)


class Databases:
    """Creates and drops databases on a server, over its own connection.

    :param server_dsn: connection string of a role that may create databases.
    """

    def __init__(self, server_dsn: str) -> None:
        self.server_dsn = server_dsn
        self._conn = psycopg.connect(server_dsn, autocommit=True)

    def create(self, template: str = "template1") -> str:
        """Create a database with a unique name, ``pgque_test_…``; return its DSN, as a URL.

        ``template`` is the name of the database to copy, which must have no sessions: see `leave`.
        """
        name = f"pgque_test_{os.getpid()}_{secrets.token_hex(3)}_{next(_numbers)}"
        statement = "create database {} template {}"
        # Faster than writing the files to the WAL. The option exists since 15.
        if self._conn.info.server_version >= FILE_COPY_SINCE:
            statement += " strategy file_copy"
        self._run(sql.SQL(statement).format(*map(sql.Identifier, (name, template))))
        return to_url(self.server_dsn, dbname=name)

    def leave(self, dsn: str) -> str:
        """End every session in a database, so that it can be a template; return its name."""
        name = _name(dsn)
        self._run(
            sql.SQL(
                "select pg_terminate_backend(pid, {}) from pg_stat_activity where datname = {}"
            ).format(sql.Literal(ENDS_WITHIN), sql.Literal(name))
        )
        return name

    def drop(self, dsn: str) -> None:
        """Drop a database, ending its sessions."""
        statement = sql.SQL("drop database if exists {} with (force)")
        self._run(statement.format(sql.Identifier(_name(dsn))))

    def close(self) -> None:
        """Close the connection; databases that were not dropped are kept."""
        self._conn.close()

    def __enter__(self) -> Databases:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, query: sql.Composed) -> None:
        try:
            self._conn.execute(query)
        except psycopg.OperationalError:
            if not self._conn.closed:
                raise
            # A test may have ended all sessions of the server.
            self._conn = psycopg.connect(self.server_dsn, autocommit=True)
            self._conn.execute(query)


def _name(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["dbname"])
