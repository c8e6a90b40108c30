"""The server as the machine sees it: its connections, and calls that may fail."""

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from tests.fix_engine import Connection, Thread, is_blocked, value
from tests.running import eventually

T = TypeVar("T")

PRODUCERS = 3
WORKERS = 3

LOCK_NOT_AVAILABLE = "55P03"

_numbers = itertools.count(1)

OPTIONS = "-c lock_timeout=10ms -c client_min_messages=error"
WAITING_OPTIONS = "-c client_min_messages=error"


class World:
    """Connections to one database, all in autocommit mode: SQL statements begin transactions.

    A call that waits for a lock gives up after 10 ms and counts as not made. The one call that may
    wait runs in a separate thread and connection.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.steps = 0
        self.examples = 0
        self.upsets: Counter[str] = Counter()
        """How often each operator's action ran: see upsetting.py."""
        self.control = self.connect()
        self.second = self.connect()
        self.patient = self.connect(WAITING_OPTIONS)
        self.producers = [self.connect() for _ in range(PRODUCERS)]
        self.workers = [self.connect() for _ in range(WORKERS)]
        self.blocked: Thread | None = None
        # With 0 each call of maint_rotate_ledger rotates.
        self.control.execute("update pgque.config set ledger_max_bytes = 0")

    def connect(self, options: str = OPTIONS) -> Connection:
        return psycopg.connect(self.dsn, autocommit=True, options=options)

    def new_queue(self) -> str:
        self.examples += 1
        queue = f"model {os.getpid()} {next(_numbers)}"
        value(self.control, "select pgque.create_queue(%s)", queue)
        return queue

    def every_connection(self) -> list[Connection]:
        return [self.control, self.second, *self.producers, *self.workers]

    def clear(self, queue: str) -> None:
        """Roll back all open transactions of an example, and drop its queue."""
        for conn in self.every_connection():
            conn.execute("rollback")
        mine = "select gid from pg_prepared_xacts where database = current_database()"
        for (gid,) in self.control.execute(mine).fetchall():
            self.control.execute(f"rollback prepared '{gid}'".encode())
        if self.blocked:
            with contextlib.suppress(psycopg.Error):
                self.blocked.outcome()
            self.blocked = None
        with self.control.transaction():
            self.control.execute("set local lock_timeout = '10s'")
            value(self.control, "select pgque.drop_queue(%s, true)", queue)

    def close(self) -> None:
        for conn in [*self.every_connection(), self.patient]:
            conn.close()

    # Calls

    def attempt(self, call: Callable[[Connection], T], conn: Connection) -> tuple[str | None, Any]:
        """Return None and the call's result, or the SQLSTATE of its error and None."""
        try:
            return None, call(conn)
        except psycopg.Error as error:
            assert error.sqlstate, error
            self.refusal = str(error)
            return error.sqlstate, None

    # Killed connections

    def kill(self, connections: list[Connection], number: int, how: str) -> None:
        """End a connection, from the client or the server, and replace it."""
        conn = connections[number]
        pid = conn.info.backend_pid
        if how == "terminate":
            assert value(self.control, "select pg_terminate_backend(%s, 10000)", pid)
        conn.close()
        gone = "select not exists (select from pg_stat_activity where pid = %s)"
        eventually(lambda: value(self.control, gone, pid), "the end of a backend")
        connections[number] = self.connect()

    # The waiting ticker

    def wait_with(self, call: Callable[[Connection], Any]) -> None:
        assert self.blocked is None
        self.blocked = Thread(call, self.patient)

    def still_waits(self) -> bool:
        """Return whether the call still waits for a lock."""
        thread = self.blocked
        assert thread is not None
        eventually(lambda: not thread.is_alive() or is_blocked(self.control, self.patient))
        return thread.is_alive()

    # The state that a failed call must not change

    def everything(self, queue: str) -> Any:
        """Return everything that users can see of a queue, except times."""
        return value(
            self.control,
            "select json_build_array("
            "(select json_agg(to_jsonb(q) order by queue_id) from pgque.queue q), "
            "(select json_agg(s.sub_id || ' ' || to_jsonb(s)::text order by s.sub_id) "
            "from pgque.subscription s), "
            "(select json_agg(to_jsonb(r) order by ev_owner, ev_id) from pgque.retry_queue r), "
            "(select json_agg(to_jsonb(d) order by dl_id) from pgque.dead_letter d), "
            "(select count(*) from pgque.consumer), "
            "(select json_agg(ev_new || ' ' || last_tick_id) from pgque.get_queue_info()))",
        )
