"""Short helpers for the engine's SQL calls that the tests repeat most."""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from tests.running import eventually

Connection = psycopg.Connection[Any]

_numbers = itertools.count(1)

LONG = os.environ.get("PGQUE_LONG") == "1"
"""Whether races run for the full documented time instead of a few seconds."""


class Message(NamedTuple):
    """A row of type pgque.message."""

    msg_id: int
    batch_id: int
    type: str | None
    payload: str | None
    retry_count: int
    created_at: Any
    extra1: str | None
    extra2: str | None
    extra3: str | None
    extra4: str | None


@pytest.fixture(scope="module")
def shared(databases: Any, template: str) -> Iterator[Connection]:
    """An autocommit connection to a database that all tests of a module share."""
    dsn = databases.create(template)
    with psycopg.connect(dsn, autocommit=True) as conn:
        yield conn
    databases.drop(dsn)


@pytest.fixture
def shared_queue(shared: Connection) -> str:
    """A new queue in the shared database, with one consumer, c."""
    name = f"shared {next(_numbers)}"
    value(shared, "select pgque.create_queue(%s)", name)
    subscribe(shared, name, "c")
    return name


def value(conn: Connection, query: str, *parameters: object) -> Any:
    """The first column of the first row, or None if there is no row."""
    row = conn.execute(query.encode(), parameters or None).fetchone()
    return row[0] if row else None


def column(conn: Connection, query: str, *parameters: object) -> list[Any]:
    """The first column of all rows."""
    return [row[0] for row in conn.execute(query.encode(), parameters or None)]


def send(conn: Connection, queue: str, payload: object = "x") -> int:
    return value(conn, "select pgque.send(%s, %s::text)", queue, str(payload))


def send_event(
    conn: Connection, queue: str, kind: str, payload: str | None, key: str | None = None
) -> int:
    call = "select pgque.insert_event(%s, %s, %s, %s, null, null, null)"
    return value(conn, call, queue, kind, payload, key)


def send_many(conn: Connection, queue: str, count: int) -> list[int]:
    """Send the texts 1 to count."""
    return value(
        conn,
        "select pgque.send_batch(%s, array(select n::text from generate_series(1, %s) as n))",
        queue,
        count,
    )


def tick(conn: Connection, queue: str) -> int | None:
    return value(conn, "select pgque.ticker(%s)", queue)


def settle(conn: Connection, queue: str) -> None:
    """Tick until no tick is due and the newest tick waits for no open transaction.

    A tick cannot know which transactions in the cluster have sent something.
    """
    newest = (
        "select tick_waiting = '{}' from pgque.tick join pgque.queue on queue_id = tick_queue "
        "where queue_name = %s order by tick_id desc limit 1"
    )
    eventually(lambda: tick(conn, queue) is None and value(conn, newest, queue), "the last tick")


def receive(
    conn: Connection, queue: str, consumer: str, max_return: int = 100, *, merged: bool = False
) -> list[Message]:
    function = "receive_merged" if merged else "receive"
    query = sql.SQL("select * from pgque.{}(%s, %s, %s)").format(sql.Identifier(function))
    return [Message(*row) for row in conn.execute(query, [queue, consumer, max_return])]


def receive_coop(
    conn: Connection,
    queue: str,
    group: str,
    member: str,
    max_return: int = 100,
    dead_interval: str | None = None,
    *,
    merged: bool = False,
) -> list[Message]:
    function = "receive_coop_merged" if merged else "receive_coop"
    query = sql.SQL("select * from pgque.{}(%s, %s, %s, %s, %s::interval)").format(
        sql.Identifier(function)
    )
    rows = conn.execute(query, [queue, group, member, max_return, dead_interval])
    return [Message(*row) for row in rows]


def ack(conn: Connection, batch: int | list[Message]) -> int:
    batch_id = batch if isinstance(batch, int) else batch[0].batch_id
    return value(conn, "select pgque.ack(%s)", batch_id)


def nack(
    conn: Connection,
    message: Message,
    retry_after: str | None = "0",
    reason: str | None = None,
    *,
    batch_id: int | None = None,
) -> int:
    return value(
        conn,
        "select pgque.nack(%s, row(%s, null, null, null, null, null, null, null, null, null)"
        "::pgque.message, %s::interval, %s::text)",
        batch_id or message.batch_id,
        message.msg_id,
        retry_after,
        reason,
    )


def retry(conn: Connection) -> int:
    return value(conn, "select pgque.maint_retry_events()")


def open_batch(conn: Connection, queue: str, consumer: str, count: int = 1) -> list[Message]:
    """Send `count` messages, tick, and receive all of them."""
    sent = send_many(conn, queue, count)
    tick(conn, queue)
    batch = receive(conn, queue, consumer, count + 1)
    assert ids(batch) == sent
    return batch


def buffers(conn: Connection, call: str) -> int:
    """The number of buffers that a call touches."""
    plan = value(conn, f"explain (analyze, buffers, format json) select * from pgque.{call}")[0]
    top = plan["Plan"]
    planning = plan.get("Planning", {})
    return sum(
        part.get(f"{kind} {how} Blocks", 0)
        for part in (top, planning)
        for kind in ("Shared", "Local")
        for how in ("Hit", "Read")
    )


def drain(
    conn: Connection, queue: str, consumer: str, max_return: int = 100, *, merged: bool = False
) -> list[Message]:
    """Tick, then receive and ack until nothing is left."""
    tick(conn, queue)
    messages = []
    while batch := receive(conn, queue, consumer, max_return, merged=merged):
        messages += batch
        assert ack(conn, batch) == 1
    return messages


def ids(messages: Iterable[Message]) -> list[int]:
    return [message.msg_id for message in messages]


def payloads(messages: Iterable[Message]) -> list[str | None]:
    return [message.payload for message in messages]


def subscribe(conn: Connection, queue: str, *consumers: str) -> None:
    for consumer in consumers:
        assert value(conn, "select pgque.subscribe(%s, %s)", queue, consumer) == 1


def configure(conn: Connection, queue: str, **settings: object) -> None:
    for param, setting in settings.items():
        text = None if setting is None else str(setting)
        conn.execute("select pgque.set_queue_config(%s, %s, %s)", [queue, param, text])


def let_die(conn: Connection, queue: str, consumer: str, reason: str = "no such address") -> None:
    """Let the consumer refuse every message for good."""
    configure(conn, queue, max_retries=0)
    tick(conn, queue)
    batch = receive(conn, queue, consumer)
    for message in batch:
        nack(conn, message, reason=reason)
    ack(conn, batch)


def rotate(conn: Connection, queue: str) -> int:
    """Rotate the queue's log if possible, even before rotation_period has passed: 1 or 0."""
    period = "select queue_rotation_period = '1 microsecond' from pgque.queue where queue_name = %s"
    if not value(conn, period, queue):
        configure(conn, queue, rotation_period="1 microsecond")
    return value(conn, "select pgque.maint_rotate_tables_step1(%s)", queue)


def rotate_ledger(conn: Connection) -> bool:
    """Switch to the other ledger child and empty the previous one; return whether it worked."""
    current = "select pgque._ledger_child()"
    before = value(conn, current)
    for _ in range(6):
        conn.execute("update pgque.config set ledger_max_bytes = 0")
        conn.execute("select setval('pgque.ledger_kept_bytes', 0)")
        value(conn, "select pgque.maint_rotate_ledger()")
        size = (
            f"select pg_relation_size('pgque.cursor_{before}') "
            f"+ pg_relation_size('pgque.tick_{before}')"
        )
        if value(conn, current) != before and value(conn, size) == 0:
            return True
    return False


def log_of(conn: Connection, queue: str) -> str:
    return value(conn, "select queue_data_pfx from pgque.queue where queue_name = %s", queue)


def notices(conn: Connection) -> list[str]:
    """A list that collects every later notice of the connection."""
    heard: list[str] = []

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        heard.append(f"{notice.severity_nonlocalized}: {notice.message_primary}")

    conn.add_notice_handler(listen)
    return heard


@contextlib.contextmanager
def refused(state: str, text: str) -> Iterator[None]:
    """The block must raise an error with that SQLSTATE and that text."""
    try:
        yield
    except psycopg.Error as error:
        assert error.sqlstate == state, f"{error.sqlstate}: {error}"
        assert text in str(error.diag.message_primary), error.diag.message_primary
    else:
        raise AssertionError(f"no error with SQLSTATE {state} was raised")


class Thread(threading.Thread):
    """A thread that starts at once; `outcome` returns its result or raises its error."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._arguments = arguments
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:
            self._error = error

    def outcome(self, timeout: float = 30) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "still waiting"
        if self._error is not None:
            raise self._error
        return self._result


def is_blocked(conn: Connection, other: Connection) -> bool:
    """Whether the other connection is waiting for a lock."""
    pid = other.info.backend_pid
    return value(conn, "select pg_blocking_pids(%s) <> '{}'", pid)
