"""Each process records its own actions, and a SIGKILL loses none of these records.

A producer writes one line before its commit and one after it. A consumer writes one line per call
of its handler. Each line is one `write`, which the kernel keeps when the process is killed.
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
    """An append-only file of JSON lines, written by one process."""

    def __init__(self, folder: Path, process: str, kind: Literal[".sent", ".handled"]) -> None:
        path = folder / f"{process}{kind}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def write(self, *line: Any) -> None:
        """Append a line."""
        os.write(self._file, json.dumps(line).encode() + b"\n")


class Doubt:
    """A context manager around one transaction that records its outcome.

    ``keys`` are the keys of its events in order, ``undone`` those of rolled-back savepoints, and
    ``poison`` those that every handler refuses. Call `committing` right before the commit. The
    block suppresses database errors and lets all others pass.
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
        """Record that the commit may happen from now on."""
        self._committing = True

    def rolled_back(self) -> None:
        """Record that it was rolled back on purpose."""
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
            raise AssertionError("a transaction ended without a call of committing()")
        self._journal.write("end", self._name, outcome, time.time())
        self.error = error if isinstance(error, Exception) else None
        return True


def _in_doubt(error: BaseException) -> bool:
    """Return whether the commit may have happened despite the error."""
    if isinstance(error, PgqueError):
        return isinstance(error, PgqueConnectionError)
    assert isinstance(error, psycopg.Error)
    return error.sqlstate is None or error.sqlstate.startswith(("08", "25P", "57P"))


def read_transactions(folder: Path) -> list[Transaction]:
    """Read the journals of all producers. A killed one leaves a transaction as unknown."""
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
    """Read the journals of all consumers."""
    return [Attempt(*line) for path in sorted(folder.glob(f"*{ATTEMPTS}")) for line in _lines(path)]


def _lines(path: Path) -> Iterator[list[Any]]:
    for line in path.read_bytes().split(b"\n"):
        if line:
            yield json.loads(line)
