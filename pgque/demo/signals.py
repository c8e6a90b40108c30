"""Signals that end the demo, turned into something that can be asked for.

A signal is only noted, so that it never tears apart the start or the end of a process. Where the
demo waits for others for an unknown time, and nothing would be left behind, it may break in.
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
    """A signal asked for the end. psycopg cancels the running query on a KeyboardInterrupt."""


class Signals:
    """Notes the first of SIGINT, SIGTERM and SIGHUP within the block."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._may_break_in = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def exit_status(self) -> int:
        """The shell's status of a program that a signal has ended."""
        return 128 + (self.received or 0)

    def check(self) -> None:
        """Raise `Interrupted` where a signal has come."""
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
                # nohup asks to live on without a terminal.
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
