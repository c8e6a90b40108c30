"""Copies of the database during the run: dumped, restored under another name and drained.

pg_dump takes its snapshot first and its locks later. TRUNCATE ignores snapshots, so if the log or
the ledger rotates in between, its rows are missing from the dump. Such a copy may lack events, but
then `pgque doctor` must say so.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from bench.chaos.server import ChaosServer
from bench.chaos.tables import (
    CONSUMERS,
    GATE,
    GROUP,
    HANDLERS,
    LEDGER_BYTES,
    QUEUE,
    ROLE,
    read_dead,
    read_effects,
)
from pgque.client import PgqueClient
from pgque.doctor import Status, examine
from pgque.errors import PgqueError

HELD_FOR: Final = 12.0
"""Longest time in seconds that a dump is held to let the log and the ledger rotate."""
DRAINED_AFTER: Final = 40
"""Rounds of draining after which a copy that still has work counts as stuck."""

Told = tuple[str, str]
"""The consumer and the key of an event."""


@dataclass
class Copy:
    """One restored dump: the events sent before it, its deliveries, and the doctor's report."""

    how: str
    known: list[str]
    """Keys known to be sent before the dump began."""
    done: set[Told] = field(default_factory=set)
    """Handled events and dead letters, according to the dump."""
    got: Counter[Told] = field(default_factory=Counter)
    """Deliveries made by the copy."""
    sent: list[str] = field(default_factory=list)
    """Keys that were sent to the copy."""
    rotated: bool = False
    """Whether the log or the ledger rotated while the dump was held."""
    errors: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """The doctor's findings about the restore."""

    def lost(self) -> list[Told]:
        """Return events sent before the dump or to the copy that are neither done nor delivered."""
        told = [(consumer, key) for consumer in CONSUMERS for key in (*self.known, *self.sent)]
        return [one for one in told if one not in self.done and not self.got[one]]

    def again(self) -> list[Told]:
        """Return events that the copy delivered twice, or delivered although they were done."""
        return [one for one, times in self.got.items() if times > 1 or one in self.done]

    def violations(self) -> list[str]:
        """Return the violations. A held dump may lose or repeat events if the doctor says so."""
        found = [f"{self.how}: {text}" for text in self.errors]
        new = {(consumer, key) for consumer in CONSUMERS for key in self.sent}
        for what, told in (("lost", self.lost()), ("delivered again", self.again())):
            # Events sent to the copy itself must never be lost or repeated.
            silent = [one for one in told if one in new or not (self.said and self.rotated)]
            if silent:
                consumer, key = silent[0]
                found.append(f"{self.how}: {len(silent)} {what}, for example {key} by {consumer}")
        return found


Phase = Callable[[psycopg.Connection], None]


def reset_sequences(conn: psycopg.Connection) -> None:
    """Restart every sequence of the schema, like a restore that leaves them out."""
    names = (
        "select quote_ident(schemaname) || '.' || quote_ident(sequencename) from pg_sequences "
        "where schemaname = 'pgque' and last_value is not null"
    )
    for (name,) in conn.execute(names).fetchall():
        conn.execute(f"alter sequence {name} restart".encode())


def log_tables(conn: psycopg.Connection) -> list[str]:
    """Return the names of the log's tables, the parent first."""
    query = """
        select c.oid::regclass::text
        from pgque.queue q
        join pg_class c on c.oid in (
            select q.queue_data_pfx::regclass
            union all
            select i.inhrelid from pg_inherits i where i.inhparent = q.queue_data_pfx::regclass
        )
        where q.queue_name = %s
        order by c.oid
    """
    return [name for (name,) in conn.execute(query, (QUEUE,)).fetchall()]


def filter_rows(conn: psycopg.Connection) -> None:
    """Enable row security on the log and receive as a reader: the call may only fail."""
    for name in log_tables(conn):
        conn.execute(f"alter table {name} enable row level security".encode())
    for consumer in CONSUMERS:
        if consumer == GROUP:
            continue
        with contextlib.suppress(psycopg.Error, PgqueError), conn.transaction():
            conn.execute(sql.SQL("set local role {}").format(sql.Identifier(ROLE)))
            client = PgqueClient(conn)
            client.ticker_all()
            client.receive(QUEUE, consumer)
    for name in log_tables(conn):
        conn.execute(f"alter table {name} disable row level security".encode())


PHASES: Final[dict[str, Phase]] = {
    "dump": lambda conn: None,
    "dump, sequences reset": reset_sequences,
    "dump, row security": filter_rows,
}
"""Changes to a copy before its first tick, by name."""


def hold_dump(server: ChaosServer, hold: bool, name: str) -> tuple[bytes, bool]:
    """Dump the run's database. Hold the dump until the log and the ledger have rotated, if asked.

    Return the dump, and whether both rotated. ``name`` is the application_name of the dump's
    session: maintenance recognises pg_dump by its name and waits.
    """
    dsn = make_conninfo(server.dsn, application_name=name)
    command = [str(server.programs / "pg_dump"), "--format=custom", "--dbname", dsn]
    rotated = False
    with server.control() as gate:
        gate.autocommit = False
        if hold:
            gate.execute(sql.SQL("lock table {}").format(sql.Identifier(GATE)))
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            if hold:
                rotated = _await_rotation(server, program)
            gate.rollback()
            dump, errors = program.communicate(timeout=60)
        finally:
            program.kill()
    if program.returncode:
        raise psycopg.OperationalError(f"pg_dump: {errors.decode(errors='replace')[-300:]}")
    return dump, rotated


def _await_rotation(server: ChaosServer, program: subprocess.Popen[bytes]) -> bool:
    """Wait until the dump is blocked, then until both the log and the ledger were truncated."""
    waiting = (
        "select exists (select from pg_locks l join pg_class c on c.oid = l.relation "
        "where c.relname = %s and not l.granted)"
    )
    deadline = time.monotonic() + HELD_FOR
    with server.control() as conn:
        while (row := conn.execute(waiting, (GATE,)).fetchone()) and not row[0]:
            if program.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        files = _files(conn)
        conn.execute("update pgque.config set ledger_max_bytes = 0")
        try:
            while time.monotonic() < deadline:
                conn.execute("select setval('pgque.ledger_kept_bytes', 0)")
                conn.execute("select pgque.maint()")
                emptied = {name for name, file in _files(conn) if (name, file) not in files}
                if {"log", "ledger"} <= emptied:
                    return True
                time.sleep(0.2)
        finally:
            conn.execute("update pgque.config set ledger_max_bytes = %s", (LEDGER_BYTES,))
    return bool(emptied)


def _files(conn: psycopg.Connection) -> list[tuple[str, int]]:
    """Return the files of the log and the ledger. TRUNCATE gives a table a new file."""
    query = """
        select case when c.relname like 'event%' then 'log' else 'ledger' end,
            pg_relation_filenode(c.oid)::bigint
        from pg_class c
        where c.relnamespace = 'pgque'::regnamespace
            and (c.relname ~ '^(tick|cursor)_[01]$' or c.relname ~ '^event_[0-9]+_[0-9]$')
            and c.relkind = 'r'
    """
    return [(name, file) for name, file in conn.execute(query).fetchall()]


def check_dump(
    server: ChaosServer,
    known: Sequence[str],
    how: str,
    *,
    hold: bool,
    name: str,
    keys: Iterator[str],
    payload: Callable[[str], str],
) -> Copy:
    """Dump, restore under another name, drain the copy and drop it.

    ``known`` holds the keys sent before. ``keys`` yields new ones for the events sent to the copy.
    """
    copy = Copy(how, list(known))
    dump, copy.rotated = hold_dump(server, hold, name)
    with _restored(server, dump) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            copy.done = {(effect.consumer, effect.key) for effect in read_effects(conn)}
            copy.done |= {(letter.consumer, letter.key) for letter in read_dead(conn)}
            PHASES[how](conn)
            copy.said += _doctor(dsn)
            try:
                copy.sent = [next(keys) for _ in range(5)]
                client = PgqueClient(conn)
                for key in copy.sent:
                    client.send(QUEUE, payload(key))
                _drain(conn, copy)
            except (PgqueError, psycopg.Error) as error:
                copy.errors.append(f"{type(error).__name__}: {error}".split("\n")[0])
        copy.said += _doctor(dsn)
    return copy


@contextlib.contextmanager
def _restored(server: ChaosServer, dump: bytes) -> Iterator[str]:
    name = f"chaos_copy_{time.monotonic_ns()}"
    with server.control() as conn:
        conn.execute(f"create database {name}".encode())
    dsn = server.dsn_of(name)
    command = [str(server.programs / "pg_restore"), "--exit-on-error", "--dbname", dsn]
    try:
        done = subprocess.run(command, input=dump, capture_output=True, check=False)
        if done.returncode:
            text = done.stderr.decode(errors="replace")[-300:]
            raise psycopg.OperationalError(f"pg_restore: {text}")
        yield dsn
    finally:
        with server.control() as conn:
            conn.execute(f"drop database if exists {name} with (force)".encode())


def _doctor(dsn: str) -> list[str]:
    """Return the doctor's findings about restoring."""
    return [
        finding.detail
        for finding in examine(dsn)
        if finding.status is not Status.OK
        and any(word in finding.detail.lower() for word in ("restor", "dump"))
    ]


def _drain(conn: psycopg.Connection, copy: Copy) -> None:
    client = PgqueClient(conn)
    for _ in range(DRAINED_AFTER):
        # Make all retries due: the API cannot advance time.
        conn.execute("update pgque.retry_queue set ev_retry_after = '-infinity'")
        conn.execute("select pgque.maint()")
        client.ticker_all()
        if not sum(_take(client, consumer, copy.got) for consumer in _readers()):
            row = conn.execute("select count(*) from pgque.retry_queue").fetchone()
            if row == (0,) and all(key in {k for _, k in copy.got} for key in copy.sent):
                return
    if not copy.lost():
        return
    copy.errors.append("draining did not finish")


def _readers() -> Iterable[tuple[str, str | None]]:
    members = [member for name, member in HANDLERS.values() if name == GROUP]
    return [*((name, None) for name in CONSUMERS if name != GROUP), (GROUP, members[0])]


def _take(client: PgqueClient, reader: tuple[str, str | None], got: Counter[Told]) -> int:
    """Receive and ack one batch. The first member takes over its siblings' batches."""
    name, member = reader
    if member is None:
        messages = client.receive(QUEUE, name, 10_000)
    else:
        messages = client.receive_coop(QUEUE, name, member, max_messages=10_000, dead_interval=0)
    if messages:
        client.ack(messages[0].batch_id)
    got.update((name, message.json()["key"]) for message in messages)
    return len(messages)
