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
    """Lend the client's connection for a block that is undone as a whole if it raises.

    The block is a savepoint of the client's transaction; on a connection in autocommit that is in
    none, it is a transaction. ``is_lost`` tells at the end whether an error was passed over.

    :raises PgqueTransactionAborted: if the transaction is aborted, at the beginning or at the end.
    """
    conn = client.conn
    with ExitStack() as stack:
        with mapped:
            if not conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE:
                new_cursor(conn).execute(
                    "select 1"
                )  # begins the transaction, which is the caller's
            stack.enter_context(conn.transaction())
        yield conn
        if is_lost() or conn.info.transaction_status == TransactionStatus.INERROR:
            raise PgqueTransactionAborted(
                "the block passed over an error of the database, which undid what it wrote\n"
                "Put what may fail into a savepoint of its own."
            )
