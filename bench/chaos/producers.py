"""The producers: three ways to send, each with a journal of outcomes.

After a database error they continue like an application, with a new connection or the next one of
the pool. They never send an event twice.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import psycopg

import pgque
from bench.chaos.deeds import DEEDS
from bench.chaos.journal import Doubt, Journal
from bench.chaos.tables import QUEUE
from pgque.errors import PgqueError

PAUSE_AFTER_ERROR = 0.2
ROLLED_BACK = 0.15
"""The share of transactions that are rolled back on purpose."""
ISOLATION = (
    psycopg.IsolationLevel.READ_COMMITTED,
    psycopg.IsolationLevel.REPEATABLE_READ,
    psycopg.IsolationLevel.SERIALIZABLE,
)


def payload(key: str, poison: bool = False, deed: str | None = None) -> str:
    """Return the payload for a key; ``deed`` names what its handler must do."""
    return json.dumps({"key": key, "poison": poison, "deed": deed})


class Producer:
    """Sends at a given rate until it is stopped. It does not catch up after a delay.

    ``name`` is the process's name, unique in the run: all its keys begin with it.
    """

    def __init__(self, dsn: str, name: str, journal: Journal, rate: float) -> None:
        self._dsn = dsn
        self._name = name
        self._journal = journal
        self._rate = rate
        self._numbers = 0
        self._stopping = threading.Event()
        self._client: pgque.PgqueClient | None = None
        self._random = random.Random(name)

    def run(self) -> None:
        """Send until `stop`."""
        due = time.monotonic()
        while not self._stopping.is_set():
            count = self._size()
            due = max(due + count / self._rate, time.monotonic() - 0.5)
            self._stopping.wait(max(0.0, due - time.monotonic()))
            try:
                error = self._send([self._key() for _ in range(count)])
            except (PgqueError, psycopg.Error) as before:  # no transaction had begun
                error = before
            if error is not None:
                print(f"{type(error).__name__}: {error}".split("\n")[0], flush=True)
                self._recover()
                self._stopping.wait(PAUSE_AFTER_ERROR)
        self._recover()

    def stop(self) -> None:
        """Let `run` return after the current transaction. May be called from any thread."""
        self._stopping.set()

    def _size(self) -> int:
        return 1

    def _key(self) -> str:
        self._numbers += 1
        return f"{self._name}:{self._numbers}"

    def _doubt(self, keys: Sequence[str], undone: Sequence[str] = ()) -> Doubt:
        return Doubt(self._journal, keys[0], keys, undone)

    def _send(self, keys: Sequence[str]) -> Exception | None:
        """Send each event in its own transaction."""
        if self._client is None:
            self._client = pgque.connect(self._dsn, autocommit=True)
        with self._doubt(keys) as doubt:
            doubt.committing()
            self._client.send(QUEUE, payload(keys[0]))
        return doubt.error

    def _recover(self) -> None:
        if self._client is not None:
            with suppress(PgqueError, psycopg.Error):
                self._client.close()
            self._client = None


class Batches(Producer):
    """Sends batches of five over connections of a `ClientPool`."""

    _pool: pgque.ClientPool | None = None

    def _size(self) -> int:
        return 5

    def _send(self, keys: Sequence[str]) -> Exception | None:
        if self._pool is None:
            self._pool = pgque.ClientPool(self._dsn, min_size=1, max_size=2)
        with self._doubt(keys) as doubt, self._pool.client() as client:
            client.send_batch(QUEUE, "default", [payload(key) for key in keys])
            doubt.committing()
        return doubt.error

    def _recover(self) -> None:
        if self._stopping.is_set() and self._pool is not None:
            self._pool.close()


class Transactions(Producer):
    """Sends in explicit transactions: any isolation level, with savepoints, some rolled back."""

    def _size(self) -> int:
        return self._random.randint(2, 8)

    def _send(self, keys: Sequence[str]) -> Exception | None:
        if self._client is None:
            self._client = pgque.connect(self._dsn)
        client = self._client
        client.conn.isolation_level = self._random.choice(ISOLATION)
        undone = [self._key()] if self._random.random() < 0.5 else []
        with self._doubt(keys, undone) as doubt:
            for position, key in enumerate(keys):
                client.conn.execute("insert into chaos_business (key) values (%s)", (key,))
                client.send(QUEUE, payload(key))
                if position == 0:
                    self._undo(client, undone)
            if self._random.random() < ROLLED_BACK:
                doubt.rolled_back()
                client.conn.rollback()
            else:
                doubt.committing()
                client.conn.commit()
        return doubt.error

    @staticmethod
    def _undo(client: pgque.PgqueClient, keys: Sequence[str]) -> None:
        for key in keys:
            with client.conn.transaction(force_rollback=True):
                client.send(QUEUE, payload(key))


KINDS: dict[str, type[Producer]] = {
    "single": Producer,
    "batches": Batches,
    "transactions": Transactions,
}


def late(
    conn: psycopg.Connection, journal: Journal, keys: Sequence[str], poison: bool = False
) -> Iterator[None]:
    """Send in a transaction that stays open until the generator is exhausted."""
    with Doubt(journal, keys[0], keys, poison=keys if poison else ()) as doubt:
        client = pgque.PgqueClient(conn)
        for key in keys:
            client.send(QUEUE, payload(key, poison))
        yield
        doubt.committing()
        conn.commit()


def send_deeds(conn: psycopg.Connection, journal: Journal, deeds: dict[str, str | None]) -> None:
    """Send deeds by key in one transaction. None means a normal message."""
    keys = list(deeds)
    dead = [key for key, deed in deeds.items() if deed is not None and DEEDS[deed].dead]
    with Doubt(journal, keys[0], keys, poison=dead) as doubt:
        client = pgque.PgqueClient(conn)
        for key, deed in deeds.items():
            client.send(QUEUE, payload(key, deed=deed))
        doubt.committing()
        conn.commit()
