"""The demo's processes: started, watched, killed and all of them ended."""

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
"""Seconds that the processes have between SIGTERM and SIGKILL."""


class Worker:
    """One process and what it wrote to standard error."""

    def __init__(self, role: str, dsn: str, rate: float) -> None:
        self.role = role
        self.expected_to_end = role == "producer"
        self.killed = False
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # A session of its own: Ctrl-C in the terminal is for the main process alone.
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
        # Where it has ended already, `check` says why.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(line).encode() + b"\n")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill it with SIGKILL, as a fault would, and wait until it is gone."""
        self.killed = True
        self._process.kill()
        self._process.wait()

    def check(self) -> None:
        """Raise `PgqueError` where it has ended and should not have."""
        status = self._process.poll()
        if status is None or self.killed or (self.expected_to_end and status == 0):
            return
        raise PgqueError(f"the process {self.role} ended with status {status}:\n{self.tail()}")

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for its end until ``deadline`` of the monotonic clock, then kill it."""
        try:
            self._process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._log.close()

    def tail(self, lines: int = 8) -> str:
        """Return the last lines that it has written."""
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


class Crew:
    """All processes of the demo; leaving the block ends every one of them."""

    def __init__(self, dsn: str, rate: float) -> None:
        self._dsn = dsn
        self._rate = rate
        self._workers: dict[str, Worker] = {}

    def start(self, role: str) -> None:
        """Start the process of a role."""
        self._workers[role] = Worker(role, self._dsn, self._rate)

    def __getitem__(self, role: str) -> Worker:
        return self._workers[role]

    @property
    def killed(self) -> set[str]:
        """The roles whose process was killed."""
        return {role for role, worker in self._workers.items() if worker.killed}

    def check(self) -> None:
        """Raise `PgqueError` where a process has ended by itself."""
        for worker in self._workers.values():
            worker.check()

    def last_words(self) -> list[str]:
        """Return for each process the last line that it has logged, where it has."""
        lines = ((role, worker.tail(1)) for role, worker in self._workers.items())
        return [f"{role}: {line}" for role, line in lines if line]

    def end(self) -> None:
        """End all processes, at the latest after `GRACE` by force."""
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
