"""Records how much of a file was sent, so that an interrupted send resumes where it stopped.

Before each commit, the record stores the transaction's id and the number of lines that are sent
if it commits. A later run asks the server whether the transaction committed. So no line is sent
twice or left out, even if the sender, its connection or the server died at any point.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from pgque.cli.options import CommandError
from pgque.client import PgqueClient
from pgque.errors import PgqueInvalidArgument
from pgque.wire.calls import Calls

PATIENCE = 15.0
"""Seconds. The server needs about ten to notice that the previous sender has gone."""
LOOK_EVERY = 0.1


def pause() -> None:
    """Wait before polling the transaction's status again."""
    time.sleep(LOOK_EVERY)


class Record(Calls):
    """A file that stores how many lines were sent to a queue.

    :param path: its path; the file need not exist.
    :param client: the connection on which the lines are sent.
    :param queue: the queue to which they are sent.
    """

    def __init__(self, path: Path, client: PgqueClient, queue: str) -> None:
        super().__init__(client.conn)
        self._path = path
        self._queue = queue
        self._database = self._value(
            "select d.datname || '/' || d.oid from pg_database d "
            "where d.datname = current_database()"
        )
        self._conn.rollback()
        self._lines = 0

    def lines(self) -> int:
        """Return how many lines were sent.

        :raises CommandError: if the record belongs to another send, or the server no longer knows
            whether the last transaction committed.
        """
        if not self._path.exists():
            return 0
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            of = (found["database"], found["queue"])
            lines, transaction, then = (found[k] for k in ("lines", "transaction", "then"))
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"{self._path} is not a record of a send") from error
        if of != (self._database, self._queue):
            raise CommandError(f"{self._path} belongs to a send to {of[1]} in the database {of[0]}")
        if transaction is not None and self._was_committed(transaction, lines, then):
            lines = then
        self._lines = int(lines)
        return self._lines

    def before_commit(self, then: int) -> None:
        """Record that ``then`` lines are sent if this transaction commits."""
        self._write(self._value("select pg_current_xact_id()::text"), then)
        self._lines = then

    def finish(self) -> None:
        """Record the final count without a transaction: the server forgets old ones."""
        self._write(None, self._lines)

    def _was_committed(self, transaction: str, lines: int, then: int) -> bool:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                status = self._value("select pg_xact_status(%s::text::xid8)", (transaction,))
            except PgqueInvalidArgument as error:
                raise CommandError(f"{self._path} belongs to another server: {error}") from error
            self._conn.rollback()
            if status in ("committed", "aborted"):
                return bool(status == "committed")
            if status is None:
                raise CommandError(
                    f"the server has forgotten the last transaction of {self._path}: check whether "
                    f"line {then} was sent; if so, continue with --skip {then}, else --skip {lines}"
                )
            if time.monotonic() > end:
                raise CommandError(
                    f"the last transaction of {self._path} is still open: try again when it ends"
                )
            pause()

    def _write(self, transaction: str | None, then: int) -> None:
        record = {
            "database": self._database,
            "queue": self._queue,
            "lines": self._lines,
            "transaction": transaction,
            "then": then,
        }
        new = self._path.with_name(f"{self._path.name}.new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
