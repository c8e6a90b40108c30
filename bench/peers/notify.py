"""Not a queue, but the least that any queue that sleeps must do: one row, one NOTIFY, one COMMIT.

The time from here to a listening process is a floor: no queue on this machine can deliver faster.
Nothing is fetched or finished, and a process that does not listen misses the event.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

import psycopg

NOT_A_QUEUE = "it is not a queue: an event is heard or missed"


class Notify:
    """An INSERT and a NOTIFY in one transaction, heard by another process."""

    name: ClassVar[str] = "notify"
    package: ClassVar[str] = ""
    lacks: ClassVar[dict[str, str]] = {"bulk": NOT_A_QUEUE, "cycle": NOT_A_QUEUE}

    def __init__(self, dsn: str) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)

    def set_up(self) -> None:
        self.conn.execute(
            "create table job (id bigint generated always as identity primary key, payload text)"
        )

    def enqueue(self, payload: str) -> None:
        self.conn.execute(
            "with sent as (insert into job (payload) values (%s) returning payload)"
            " select pg_notify('job', payload) from sent",
            [payload],
        )

    def enqueue_many(self, payloads: list[str]) -> None:
        raise NotImplementedError(self.lacks["bulk"])

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        self.conn.execute("listen job")
        early = {payload for (payload,) in self.conn.execute("select payload from job")}
        for payload in early:
            handled(payload)
        while not stop.is_set():
            for heard in self.conn.notifies(timeout=0.5):
                if heard.payload not in early:
                    handled(heard.payload)

    def cycle(self, payload: str) -> None:
        raise NotImplementedError(self.lacks["cycle"])

    def tear_down(self) -> None:
        self.conn.close()
