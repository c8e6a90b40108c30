"""Starts, watches and ends the demo's processes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from pgque.errors import PgqueError

PROCESS = Path(__file__).with_name("process.py")
GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""


class Worker:
    """A process and its output."""

    def __init__(self, role: str, dsn: str, rate: float) -> None:
        self.role = role
        self.expected_to_end = role == "producer"
        self.killed = False
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # In a separate session, so that Ctrl-C in the terminal reaches only the main process.
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(PROCESS), role],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,
        )
        self._tell(sys.path)
        self._tell({"dsn": dsn, "rate": rate})

    def _tell(self, line: object) -> None:
        assert self._process.stdin is not None
        # If the process has already ended, `check` reports why.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(line).encode() + b"\n")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill it with SIGKILL and wait until it has ended."""
        self.killed = True
        self._process.kill()
        self._process.wait()

    def check(self) -> None:
        """Raise `PgqueError` if it has ended unexpectedly."""
        status = self._process.poll()
        if status is None or self.killed or (self.expected_to_end and status == 0):
            return
        raise PgqueError(f"the process {self.role} ended with status {status}:\n{self.tail()}")

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait until ``deadline`` (monotonic clock) for its end, then kill it."""
        try:
            self._process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._log.close()

    def tail(self, lines: int = 8) -> str:
        """Return the last lines of its output."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


class Crew:
    """All processes of the demo. Leaving the block ends them."""

    def __init__(self, dsn: str, rate: float) -> None:
        self._dsn = dsn
        self._rate = rate
        self._workers: dict[str, Worker] = {}

    def start(self, role: str) -> None:
        """Start the process for a role."""
        self._workers[role] = Worker(role, self._dsn, self._rate)

    def __getitem__(self, role: str) -> Worker:
        return self._workers[role]

    @property
    def killed(self) -> set[str]:
        """The roles whose processes were killed."""
        return {role for role, worker in self._workers.items() if worker.killed}

    def check(self) -> None:
        """Raise `PgqueError` if a process has ended unexpectedly."""
        for worker in self._workers.values():
            worker.check()

    def last_words(self) -> list[str]:
        """Return the last line of each process's output, if any."""
        lines = ((role, worker.tail(1)) for role, worker in self._workers.items())
        return [f"{role}: {line}" for role, line in lines if line]

    def end(self) -> None:
        """End all processes. Kill those that still run after `GRACE` seconds."""
        for worker in self._workers.values():
            worker.ask_to_end()
        deadline = time.monotonic() + GRACE
        for worker in self._workers.values():
            worker.end(deadline)
        self._workers = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()
