"""The ORM on a client's connection: a database wrapper that borrows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import sql
from psycopg.pq import Format
from psycopg.rows import tuple_row
from psycopg.types.range import Range
from psycopg.types.string import TextLoader

from pgque.errors import PgqueInvalidArgument
from pgque.wire.borrowing import lent
from pgque.wire.calls import new_cursor

try:
    from django.conf import settings
    from django.db import connections, transaction
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "Django is missing: pip install 'pgque[django]'", name=error.name
    ) from error

if TYPE_CHECKING:
    from pgque.client import PgqueClient


_TIMESTAMPTZ: Final = psycopg.postgres.types["timestamptz"].oid


@contextmanager
def orm_on(client: PgqueClient, using: str = "default") -> Iterator[None]:
    """Let the ORM use the client's connection and transaction, within the block and thread.

    If the block raises, all its writes are rolled back. ``connection.close()``,
    ``close_old_connections()`` and the request signals do not close the connection. After the
    block Django uses its previous connection again.

    Within the block the session has Django's time zone. ``transaction.on_commit()`` is refused,
    because the commit comes after the block: send an event instead. Types that are registered by
    the signal ``connection_created``, such as hstore, are not available.

    :param using: the alias of the database.
    :raises PgqueInvalidArgument: if that database is not PostgreSQL with psycopg 3.
    :raises PgqueTransactionAborted: if the block ignored an error of the database and the
        transaction is aborted.
    """
    before = connections[using]
    wrapper = _borrower(before.__class__)(before.settings_dict, using)
    with lent(client, is_lost=lambda: bool(wrapper.needs_rollback)) as conn:
        wrapper.borrow(conn)
        connections[using] = wrapper
        try:
            with _time_zone(conn, wrapper.timezone_name):
                yield
        finally:
            connections[using] = before


@contextmanager
def _time_zone(conn: psycopg.Connection[Any], name: str) -> Iterator[None]:
    """Set the session's time zone. If the block raises, the rollback restores the old one."""
    before = conn.info.parameter_status("TimeZone")
    if before == name or before is None:
        yield
        return
    _set_time_zone(conn, name)
    yield
    if conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
        _set_time_zone(conn, before)


def _set_time_zone(conn: psycopg.Connection[Any], name: str) -> None:
    statement = sql.SQL("set local time zone {}").format(sql.Literal(name))
    new_cursor(conn).execute(statement, prepare=False)


@lru_cache(maxsize=16)
def _borrower(backend: Any) -> Any:
    """Return a subclass of the backend that leaves the connection's management to its owner."""
    from django.db.backends.postgresql import base, psycopg_any

    if not issubclass(backend, base.DatabaseWrapper) or not psycopg_any.is_psycopg3:
        raise PgqueInvalidArgument(
            f"orm_on() needs Django's PostgreSQL backend with psycopg 3, not {backend.__module__}"
        )

    class Borrower(backend):  # type: ignore[misc]
        """A database wrapper on a connection that belongs to a client of pgque."""

        def borrow(self, conn: psycopg.Connection[Any]) -> None:
            """Use the connection as if within an outermost ``atomic()`` that never commits."""
            self.connection = conn
            self.autocommit = False
            self.in_atomic_block = True
            self.commit_on_exit = True
            self.atomic_blocks = [transaction.atomic(self.alias)]

        def create_cursor(self, name: str | None = None) -> Any:
            if name:
                cursor = self._kind_of_cursor(named=True)(
                    self.connection, name=name, scrollable=False, row_factory=tuple_row
                )
            else:
                cursor = self._kind_of_cursor()(self.connection, row_factory=tuple_row)
            self._adapt(cursor.adapters)
            return cursor

        def _kind_of_cursor(self, named: bool = False) -> Any:
            if self.settings_dict["OPTIONS"].get("server_side_binding") is True:
                return psycopg.ServerCursor if named else base.ServerBindingCursor
            if named:  # Django 4.2.0 lacks ServerSideCursor
                return getattr(base, "ServerSideCursor", psycopg.ServerCursor)
            return base.Cursor

        def _adapt(self, adapters: psycopg.adapt.AdaptersMap) -> None:
            """Register Django's adapters on one cursor, not on the whole connection."""
            for name in ("jsonb", "inet", "cidr"):
                adapters.register_loader(name, TextLoader)
            adapters.register_dumper(Range, psycopg_any.DjangoRangeDumper)
            template = psycopg_any.get_adapters_template(settings.USE_TZ, self.timezone)
            loader = template.get_loader(_TIMESTAMPTZ, Format.TEXT)
            adapters.register_loader("timestamptz", loader)

        def close(self) -> None:
            pass

        def _close(self) -> None:
            pass

        def close_if_unusable_or_obsolete(self) -> None:
            pass

        def ensure_timezone(self) -> bool:
            return False

        def on_commit(self, func: Callable[[], object], robust: bool = False) -> None:
            raise transaction.TransactionManagementError(
                "on_commit() is not possible inside pgque.django.orm_on(): the commit comes with "
                "the ack, after the block. Send an event instead: it is delivered after the "
                "commit, and a crash does not lose it."
            )

    return Borrower
