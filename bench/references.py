"""The references for pgque: the cheapest way in which plain PostgreSQL does the same.

The plain table has the columns of an event: an id from a sequence, the time, the transaction, a
type and the data, with one index.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import psycopg

from bench.measure import value

Connection = psycopg.Connection[Any]

CHUNK = 1000
"""Rows per read, here and through pgque."""

_PLAIN = """
    create sequence plain_id;
    create table plain (
        id bigint not null default nextval('plain_id'),
        time timestamptz not null default clock_timestamp(),
        txid xid8 not null default pg_current_xact_id(),
        type text,
        data text
    ) with (autovacuum_enabled = off);
    create index plain_txid on plain (txid, id);
"""


def make_plain(conn: Connection) -> None:
    """Make the table ``plain``."""
    conn.execute(_PLAIN.encode())


def insert(conn: Connection, count: int, payload: str) -> list[int]:
    """Insert rows one by one. psycopg prepares the statement, as it does for pgque."""
    ids = []
    for _ in range(count):
        cursor = conn.execute(
            "insert into plain (type, data) values (%s::text, %s::text) returning id",
            ("default", payload),
        )
        row = cursor.fetchone()
        assert row is not None
        ids.append(row[0])
    return ids


def insert_many(conn: Connection, payloads: list[str]) -> None:
    """Insert rows by one statement, from an array in binary."""
    conn.execute(
        "insert into plain (type, data) select 'default', payload from unnest(%b::text[]) payload",
        (payloads,),
    )


def copy(conn: Connection, payloads: Sequence[str]) -> None:
    """Copy rows in one transaction, the way psycopg documents it."""
    with conn.cursor() as cursor, cursor.copy("copy plain (type, data) from stdin") as rows:
        for payload in payloads:
            rows.write_row(("default", payload))


def copy_of_log(conn: Connection, queue: str) -> str:
    """Make a plain table from a log's rows, with an index on the id; return its name."""
    table = f"copy_of_{queue}"
    conn.execute(
        f"create table {table} as select * from {log_child(conn, queue)} order by ev_id;"
        f"create unique index on {table} (ev_id);"
        f"analyze {table}".encode()
    )
    return table


def select(
    conn: Connection, table: str, chunk: int = CHUNK, *, keeps_place: bool = False
) -> array[int]:
    """Read a copy of a log from its beginning by index, in binary, with a message's columns.

    With ``keeps_place`` it durably stores its place after each chunk, as any reader must that
    continues after a crash. Returns the ids.
    """
    query = _select(table)
    ids: array[int] = array("q")
    last = 0
    if keeps_place:
        conn.execute("create table if not exists place (id bigint) with (autovacuum_enabled = off)")
    while True:
        rows = conn.cursor(binary=True).execute(query, (last, chunk)).fetchall()
        if not rows:
            return ids
        ids.extend([row[0] for row in rows])
        last = rows[-1][0]
        if keeps_place:
            conn.execute("insert into place values (%s)", (last,))


def _select(table: str) -> bytes:
    return (
        "select ev_id, 0::bigint, ev_type, ev_data, coalesce(ev_retry, 0), ev_time, "
        f"ev_extra1, ev_extra2, ev_extra3, ev_extra4 from {table} "
        "where ev_id > %s order by ev_id limit %s"
    ).encode()


def select_in_server(conn: Connection, table: str, chunk: int) -> float:
    """Return the milliseconds that the server needs for a chunk of `select`."""
    return in_server(conn, _select(table), (0, chunk))


def in_server(conn: Connection, query: bytes, params: Sequence[object]) -> float:
    """Return how many milliseconds the server needs to execute a query, sending nothing."""
    explained = b"explain (analyze, timing off, format json) " + query
    row = conn.execute(explained, params).fetchone()
    assert row is not None
    return float(row[0][0]["Execution Time"])


def log_child(conn: Connection, queue: str) -> str:
    """Return the child of the log that the queue writes to."""
    query = "select queue_data_pfx || '_' || queue_cur_table from pgque.queue where queue_name = %s"
    return str(value(conn, query, queue))
