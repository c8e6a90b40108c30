"""pgque's own connections: each belongs to one process, and a commit never fails silently.

A forked child shares its parent's sockets. Anything that the child sends, even the message that
closes the connection, appears to come from the parent. So the child's copies are cut off at the
fork. In the child they look like connections that the server has closed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus

from pgque.errors import PgqueConnectionError


class OwnConnection(psycopg.Connection[Any]):
    """A psycopg connection with two differences.

    PostgreSQL answers a COMMIT of an aborted transaction with ROLLBACK and without an error. Here
    `commit` and the end of `transaction` raise `psycopg.errors.InFailedSqlTransaction` instead, and
    `commit` does not end the transaction. In a forked child the connection is closed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _ours.add(self)

    def commit(self) -> None:
        """Commit the transaction; raise if an earlier error has aborted it."""
        self._refuse_in_vain()
        super().commit()

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Begin a transaction or a savepoint; at its end raise if an error has aborted it."""
        with super().transaction(savepoint_name, force_rollback) as transaction:
            yield transaction
            if not force_rollback:
                self._refuse_in_vain()

    def _refuse_in_vain(self) -> None:
        if self.pgconn.transaction_status == TransactionStatus.INERROR:
            raise psycopg.errors.InFailedSqlTransaction(
                "an earlier error aborted this transaction, so there is nothing to commit: "
                "its writes are rolled back"
            )


def check_process(owner: int) -> None:
    """Raise `PgqueConnectionError` in any process but the one with this id."""
    if os.getpid() != owner:
        raise PgqueConnectionError(
            f"this connection belongs to process {owner}, not to its fork {os.getpid()}\n"
            "Create a client in each process, after the fork: pgque.connect(dsn), a ClientPool, "
            "or PgqueClient(conn)."
        )


_ours: Final[WeakSet[OwnConnection]] = WeakSet()


def _cut_off() -> None:
    """Replace the child's descriptors by a socket whose other end is closed."""
    connections = list(_ours)
    if not connections:
        return
    dead, other = socket.socketpair()
    other.close()
    for conn in connections:
        with suppress(psycopg.Error, OSError):  # already closed
            os.dup2(dead.fileno(), conn.fileno(), inheritable=False)
    dead.close()


os.register_at_fork(after_in_child=_cut_off)
