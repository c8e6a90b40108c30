"""What each process writes down by itself, so that its SIGKILL takes nothing away.

A producer writes a line before it commits and one after; a consumer one line per call of its
handler. Each line is one `write`, which the kernel keeps when the process is killed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

import psycopg

from bench.chaos.history import Attempt, Outcome, Transaction
from pgque.errors import PgqueConnectionError, PgqueError

if TYPE_CHECKING:
    from typing_extensions import Self

TRANSACTIONS: Final = ".sent"
ATTEMPTS: Final = ".handled"


class Journal:
    """A file of JSON lines that is only appended to, of one process alone."""

    def __init__(self, folder: Path, process: str, kind: Literal[".sent", ".handled"]) -> None:
        path = folder / f"{process}{kind}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def write(self, *line: Any) -> None:
        """Append a line."""
        os.write(self._file, json.dumps(line).encode() + b"\n")


class Doubt:
    """The life of one transaction, as a context manager: it writes down what became of it.

    ``keys`` are those of its events in order, ``undone`` those of savepoints that are rolled back,
    ``poison`` those that no handler takes. `committing` is to be called right before the commit. An
    exception of the database ends the block quietly; any other is the program's.
    """

    def __init__(
        self,
        journal: Journal,
        name: str,
        keys: Sequence[str],
        undone: Sequence[str] = (),
        poison: Sequence[str] = (),
    ) -> None:
        self._journal = journal
        self._name = name
        self._committing = self._rolled_back = False
        self.error: Exception | None = None
        journal.write("begin", name, list(keys), list(undone), list(poison), time.time())

    def committing(self) -> None:
        """Say that from now on it may be committed."""
        self._committing = True

    def rolled_back(self) -> None:
        """Say that it was rolled back on purpose."""
        self._rolled_back = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None and not isinstance(error, (PgqueError, psycopg.Error)):
            return False
        outcome: Outcome = "sent"
        if self._rolled_back:
            outcome = "failed"
        elif error is not None:
            outcome = "unknown" if self._committing and _in_doubt(error) else "failed"
        if outcome == "sent" and not self._committing:
            raise AssertionError("a transaction ended before it said that it would commit")
        self._journal.write("end", self._name, outcome, time.time())
        self.error = error if isinstance(error, Exception) else None
        return True


def _in_doubt(error: BaseException) -> bool:
    """Tell whether a commit may have happened all the same: nobody has said that it did not."""
    if isinstance(error, PgqueError):
        return isinstance(error, PgqueConnectionError)
    assert isinstance(error, psycopg.Error)
    return error.sqlstate is None or error.sqlstate.startswith(("08", "25P", "57P"))


def read_transactions(folder: Path) -> list[Transaction]:
    """Read what all producers have written; who was killed leaves an end that is unknown."""
    found: list[Transaction] = []
    for path in sorted(folder.glob(f"*{TRANSACTIONS}")):
        own: dict[str, Transaction] = {}
        for line in _lines(path):
            if line[0] == "begin":
                _, name, keys, undone, poison, at = line
                own[name] = Transaction(name, keys, undone, poison, "unknown", at)
            else:
                own[line[1]].outcome = line[2]
        found += own.values()
    return found


def read_attempts(folder: Path) -> list[Attempt]:
    """Read what all consumers have written."""
    return [Attempt(*line) for path in sorted(folder.glob(f"*{ATTEMPTS}")) for line in _lines(path)]


def _lines(path: Path) -> Iterator[list[Any]]:
    for line in path.read_bytes().split(b"\n"):
        if line:
            yield json.loads(line)
