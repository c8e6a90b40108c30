"""The SKIP LOCKED queue of the textbooks, in thirty lines: one table, one job per transaction.

The job's row is deleted in the transaction that handles it, so a crash returns the job.
LISTEN/NOTIFY wakes the worker; without it a worker would poll.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

import psycopg


class Textbook:
    """A table, `FOR UPDATE SKIP LOCKED` and `NOTIFY`."""

    name: ClassVar[str] = "textbook"
    package: ClassVar[str] = ""
    lacks: ClassVar[dict[str, str]] = {}

    def __init__(self, dsn: str) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)

    def set_up(self) -> None:
        self.conn.execute(
            "create table job (id bigint generated always as identity primary key, payload text)"
        )

    def enqueue(self, payload: str) -> None:
        self.conn.execute(
            "with sent as (insert into job (payload) values (%s)) select pg_notify('job', '')",
            [payload],
        )

    def enqueue_many(self, payloads: list[str]) -> None:
        self.conn.execute(
            "with sent as (insert into job (payload) select unnest(%s::text[]))"
            " select pg_notify('job', '')",
            [payloads],
        )

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        self.conn.execute("listen job")
        while not stop.is_set():
            if not self._work_one(handled):
                # The same query covers every notification that has arrived.
                list(self.conn.notifies(timeout=0.5, stop_after=1))
                list(self.conn.notifies(timeout=0))

    def _work_one(self, handled: Callable[[str], None]) -> bool:
        with self.conn.transaction():
            row = self.conn.execute(
                "delete from job where id = ("
                " select id from job order by id for update skip locked limit 1) returning payload"
            ).fetchone()
            if row is not None:
                handled(row[0])
        return row is not None

    def cycle(self, payload: str) -> None:
        self.enqueue(payload)
        self._work_one(lambda _: None)

    def tear_down(self) -> None:
        self.conn.close()
