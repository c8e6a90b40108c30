"""Signals that end the demo, stored for polling.

The handler only stores the signal, so that it never interrupts the start or the end of a process.
In blocks that may wait indefinitely and would leave nothing behind, it raises at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal ends the demo. psycopg cancels the running query on a KeyboardInterrupt."""


class Signals:
    """Stores the first SIGINT, SIGTERM or SIGHUP within the block."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._may_break_in = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_status(self) -> int:
        """The status that a shell reports for a program ended by the signal."""
        return 128 + (self.received or 0)

    def check(self) -> None:
        """Raise `Interrupted` if a signal was received."""
        if self.received is not None:
            raise Interrupted

    @contextmanager
    def breaking_in(self) -> Iterator[None]:
        """Let a signal raise `Interrupted` at any point of the block."""
        self._may_break_in = True
        try:
            self.check()
            yield
        finally:
            self._may_break_in = False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                # nohup ignores SIGHUP to survive the terminal: respect that.
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = self.received or number
        if first and self._may_break_in:
            raise Interrupted
