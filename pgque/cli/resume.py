"""How far a file was sent, kept so that a send which broke off goes on where it has stopped.

Before each commit the record names the transaction, and how far all is sent if that commits. Who
reads it asks the server what became of the transaction. So nothing is sent twice and nothing is
left out, wherever the sender, its connection or the server has ended.
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
"""Seconds. The server needs about ten to notice that the sender before is gone."""
LOOK_EVERY = 0.1


def pause() -> None:
    """Wait a moment before the next look."""
    time.sleep(LOOK_EVERY)


class Record(Calls):
    """A file that says how many lines were sent to a queue.

    :param path: where it is kept; it may be missing.
    :param client: the connection on which the lines are sent.
    :param queue: the queue to which.
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

        :raises CommandError: where the record is of something else, or cannot say it any more.
        """
        if not self._path.exists():
            return 0
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            of = (found["database"], found["queue"])
            lines, transaction, then = (found[k] for k in ("lines", "transaction", "then"))
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"{self._path} is no record of a send") from error
        if of != (self._database, self._queue):
            raise CommandError(f"{self._path} is of a send to {of[1]} in the database {of[0]}")
        if transaction is not None and self._was_committed(transaction, lines, then):
            lines = then
        self._lines = int(lines)
        return self._lines

    def before_commit(self, then: int) -> None:
        """Write down that ``then`` lines are sent if this transaction is committed."""
        self._write(self._value("select pg_current_xact_id()::text"), then)
        self._lines = then

    def finish(self) -> None:
        """Write down what is sent after the last commit: transactions are forgotten some day."""
        self._write(None, self._lines)

    def _was_committed(self, transaction: str, lines: int, then: int) -> bool:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                status = self._value("select pg_xact_status(%s::text::xid8)", (transaction,))
            except PgqueInvalidArgument as error:
                raise CommandError(f"{self._path} is of another server: {error}") from error
            self._conn.rollback()
            if status in ("committed", "aborted"):
                return bool(status == "committed")
            if status is None:
                raise CommandError(
                    f"the server has forgotten the last transaction of {self._path}: look whether "
                    f"line {then} was sent, and go on with --skip {then}, or else --skip {lines}"
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
