"""A table with capture triggers, and the events that they send."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

ENCODINGS = ["jsontriga", "logutriga", "sqltriga"]


class Event(NamedTuple):
    type: str | None
    data: str
    extra1: str | None
    extra2: str | None
    extra3: str | None
    extra4: str | None

    @property
    def row(self) -> dict[str, Any]:
        """The row in an event from jsontriga."""
        return json.loads(self.data)


@dataclass
class Capture:
    """A connection whose table changes are sent to a queue, and a consumer of that queue."""

    conn: psycopg.Connection[Any]
    queue: str
    consumer: str

    def run(self, *statements: str) -> psycopg.Cursor[Any]:
        """Execute statements; return the last one's cursor."""
        for statement in statements:
            cursor = self.conn.execute(statement.encode())
        return cursor

    def attach(
        self,
        table: str,
        function: str,
        *arguments: str,
        timing: str = "after",
        on: str = "insert or update or delete",
        level: str = "row",
        name: str | None = None,
        queue: str | None = None,
    ) -> None:
        """Create a capture trigger; by default it has the function's name and the test's queue."""
        values = [self.queue if queue is None else queue, *arguments]
        statement = "create trigger {} {} {} on {} for each {} execute function pgque.{}({})"
        self.conn.execute(
            sql.SQL(statement).format(
                sql.Identifier(name or function),
                sql.SQL(timing),
                sql.SQL(on),
                sql.SQL(table),
                sql.SQL(level),
                sql.Identifier(function),
                sql.SQL(", ").join(map(sql.Literal, values)),
            )
        )

    def attach_all(self, table: str, *arguments: str, timing: str = "after") -> None:
        """Create one trigger per encoding; they fire in the order of ENCODINGS."""
        for function in ENCODINGS:
            name = f"{timing}_{function}"
            self.attach(table, function, *arguments, timing=timing, name=name)

    def events(self) -> list[Event]:
        """Commit, tick, and return the events sent since the last call."""
        self.conn.commit()
        self.conn.execute("select pgque.ticker(%s)", [self.queue])
        self.conn.commit()
        rows = self.conn.execute(
            """
            select batch_id, type, payload, extra1, extra2, extra3, extra4
              from pgque.receive(%s, %s, 1000)
            """,
            [self.queue, self.consumer],
        ).fetchall()
        for batch_id in {row[0] for row in rows}:
            self.conn.execute("select pgque.ack(%s)", [batch_id])
        self.conn.commit()
        return [Event(*row[1:]) for row in rows]


@pytest.fixture
def capture(conn: psycopg.Connection[Any], queue: str) -> Capture:
    conn.execute("select pgque.subscribe(%s, 'capture')", [queue])
    conn.commit()
    return Capture(conn, queue, "capture")
