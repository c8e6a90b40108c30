"""Long transactions of other sessions: an old xid, a pinned xmin horizon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg

BURN = """
do $$
begin
    for n in 1..{} loop
        perform pg_current_xact_id();
        commit;
    end loop;
end
$$
"""


def burn_xids(dsn: str, count: int) -> None:
    """Take this many transaction ids. Each transaction does nothing else, so nothing is written."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(BURN.format(int(count)).encode())


@contextlib.contextmanager
def old_transaction(dsn: str, xids: int) -> Iterator[None]:
    """Hold a write transaction open while this many later ones begin and end."""
    with psycopg.connect(dsn) as conn:
        mine = _xid(conn)
        burn_xids(dsn, xids)
        with psycopg.connect(dsn, autocommit=True) as other:
            age = _xid(other) - mine
        assert age >= xids, f"the transaction is {age} xids old"
        yield
        conn.rollback()


@contextlib.contextmanager
def pinned_horizon(dsn: str) -> Iterator[None]:
    """Hold a snapshot and an xid, so that VACUUM can remove no row that dies from now on."""
    with psycopg.connect(dsn) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        _xid(conn)
        conn.execute("select count(*) from pg_class")
        yield
        conn.rollback()


def _xid(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("select pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    return int(row[0])
