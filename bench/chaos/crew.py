"""The processes of a run, and a supervisor that restarts them like systemd."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from bench.chaos.deeds import KILLED
from bench.chaos.process import REFUSED
from bench.chaos.tables import PRODUCERS

if TYPE_CHECKING:
    from typing_extensions import Self

LOOK_EVERY = 0.1
START_AGAIN_AFTER = 0.5
GRACE = 20.0
SAID = {
    "batch taken over": "was taken over",
    "tries again": "; again in",
    "session ended": "due to administrator command",
    "server starting or stopping": "the database system is",
    "server crashed": "because of crash of another server process",
    "connection reset or closed": "server closed the connection unexpectedly",
    "connection timeout": "timeout expired",
    "no connection left": "connection slots are reserved",
    "statement timeout": "due to statement timeout",
    "lock timeout": "due to lock timeout",
    "idle transaction ended": "due to idle-in-transaction timeout",
    "silent session ended": "due to idle-session timeout",
    "disk full": "No space left on device",
    "read-only": "in a read-only transaction",
}
"""Log messages that show that a fault hit a process, by label."""


class _Member:
    """A role and its current process."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.log: IO[bytes] | None = None
        self.ended_at = 0.0
        self.sent_signal = False


class Crew:
    """Starts a process for each role and restarts it when it ends. A context manager."""

    def __init__(self, dsn: str, roles: tuple[str, ...], rate: float, folder: Path) -> None:
        self._plan = {"dsn": dsn, "rate": rate, "folder": str(folder)}
        self._folder = folder
        self._members = {role: _Member(role) for role in roles}
        self._guard = threading.RLock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        self.refused = 0
        """How often a process ended because its first attempt failed, and was restarted."""
        self.killed = 0
        """How often a handler killed its own process, as its message demanded."""
        self.crashed: list[str] = []
        """Processes that ended without a fault to explain it, with their last log lines."""

    @property
    def roles(self) -> list[str]:
        """All roles."""
        return list(self._members)

    def signal(self, role: str, number: signal.Signals) -> bool:
        """Send a signal to the process of a role. Return whether one was running."""
        with self._guard:
            member = self._members[role]
            if member.process is None or member.process.poll() is not None:
                return False
            if number in (signal.SIGKILL, signal.SIGTERM):
                member.sent_signal = True
            member.process.send_signal(number)
            return True

    def pause(self, role: str, wait: Callable[[], object]) -> bool:
        """Stop a process with SIGSTOP until `wait` returns. Return whether one was running."""
        with self._guard:
            process = self._members[role].process
        if process is None:
            return False
        process.send_signal(signal.SIGSTOP)
        try:
            wait()
        finally:
            process.send_signal(signal.SIGCONT)
        return True

    def some(self, chance: random.Random, *prefixes: str) -> str:
        """Choose a role whose name begins with one of the prefixes, or any role."""
        return chance.choice([role for role in self.roles if role.startswith(prefixes or "")])

    def stop(self, *roles: str) -> None:
        """Stop processes for good with SIGTERM, and wait until they end."""
        with self._guard:
            members = [self._members.pop(role) for role in roles]
        for member in members:
            if member.process is not None:
                member.process.terminate()
        deadline = time.monotonic() + GRACE
        for member in members:
            self._await(member, deadline)

    def said(self) -> Counter[str]:
        """Count the log messages that show that a fault hit."""
        found: Counter[str] = Counter()
        for path in self._folder.glob("*.log"):
            text = path.read_text(errors="replace")
            for name, part in SAID.items():
                found[name] += text.count(part)
        return found

    def _look_after(self) -> None:
        while not self._ending.wait(LOOK_EVERY):
            with self._guard:
                for member in self._members.values():
                    if member.process is not None and member.process.poll() is not None:
                        self._note_end(member)
                    if member.process is None:
                        self._start_again(member)

    def _start_again(self, member: _Member) -> None:
        if time.monotonic() - member.ended_at >= START_AGAIN_AFTER:
            self._start(member)

    def _start(self, member: _Member) -> None:
        member.starts += 1
        member.sent_signal = False
        name = f"{member.role}.{member.starts}"
        member.log = open(self._folder / f"{name}.log", "wb")  # noqa: SIM115
        member.process = subprocess.Popen(
            [sys.executable, "-m", "bench.chaos.process"],
            stdin=subprocess.PIPE,
            stdout=member.log,
            stderr=member.log,
            start_new_session=True,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert member.process.stdin is not None
        plan = {**self._plan, "role": member.role, "name": name}
        with contextlib.suppress(BrokenPipeError):
            member.process.stdin.write(json.dumps(plan).encode() + b"\n")

    def _note_end(self, member: _Member) -> None:
        assert member.process is not None
        status = member.process.returncode
        name = f"{member.role}.{member.starts}"
        if status == REFUSED:
            self.refused += 1
        elif status == -signal.SIGKILL and (self._folder / f"{name}{KILLED}").exists():
            self.killed += 1
        elif not member.sent_signal:
            words = (self._folder / f"{name}.log").read_text(errors="replace")[-500:]
            self.crashed.append(f"{member.role} ended with {status}: {words}")
        self._close(member)
        member.ended_at = time.monotonic()

    def _await(self, member: _Member, deadline: float) -> None:
        if member.process is None:
            return
        try:
            member.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.crashed.append(f"{member.role} did not end within {GRACE:g} s of SIGTERM")
            member.process.kill()
            member.process.wait()
        self._close(member)

    def _close(self, member: _Member) -> None:
        assert member.process is not None
        assert member.process.stdin is not None
        assert member.log is not None
        member.process.stdin.close()
        member.log.close()
        member.process = None

    def __enter__(self) -> Self:
        for member in self._members.values():
            self._start(member)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        producers = [role for role in self.roles if role in PRODUCERS]
        self.stop(*producers)
        self.stop(*self.roles)
