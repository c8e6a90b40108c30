"""Lending a client's connection and transaction to an ORM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from pgque.client import PgqueClient
from pgque.errors import PgqueTransactionAborted, mapped
from pgque.wire.calls import new_cursor


@contextmanager
def lent(
    client: PgqueClient, is_lost: Callable[[], bool] = lambda: False
) -> Iterator[psycopg.Connection[Any]]:
    """Lend the client's connection for a block that is rolled back as a whole if it raises.

    The block is a savepoint of the client's transaction. On an autocommit connection without an
    open transaction, it is a transaction. ``is_lost`` is called at the end and tells whether the
    block ignored an error.

    :raises PgqueTransactionAborted: if the transaction is aborted, at the beginning or at the end.
    """
    conn = client.conn
    with ExitStack() as stack:
        with mapped:
            if not conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
                # Begins the caller's transaction, so that the block is a savepoint in it.
                new_cursor(conn).execute("select 1")
            stack.enter_context(conn.transaction())
        yield conn
        if is_lost() or conn.info.transaction_status == TransactionStatus.INERROR:
            raise PgqueTransactionAborted(
                "the block ignored an error of the database, which rolled back its writes\n"
                "Put statements that may fail into a savepoint."
            )
