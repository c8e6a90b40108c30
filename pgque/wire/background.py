"""Shared by consumers, tickers and workers: stopping, signals, and pauses after errors."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from pgque.logs import Fields

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


class Backoff:
    """Pauses between attempts: doubled each time up to a maximum, with jitter."""

    def __init__(self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._first = self._ceiling = first
        self._longest = longest

    def next(self) -> float:
        """Return the next pause in seconds."""
        pause = random.uniform(self._ceiling / 4, self._ceiling)  # noqa: S311
        self._ceiling = min(self._ceiling * 2, self._longest)
        return pause

    def reset(self) -> None:
        """Start again with the first pause, after a success."""
        self._ceiling = self._first


def warn_of_pause(
    logger: logging.Logger, who: str, error: Exception, pause: float, fields: Fields
) -> None:
    """Log an error, and the seconds until the next attempt."""
    logger.warning(
        "%s: %s; again in %.1f s",
        who,
        error,
        pause,
        extra=fields | Fields(error=str(error), retry_in=pause),
        stacklevel=2,
    )


@contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGINT within the block; a second signal gets the old handler.

    Only the main thread can set signal handlers; in any other thread this does nothing. Forked
    children get the old handlers back, because a signal to them must not stop this process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.getsignal(number) or signal.SIG_DFL
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])
        if os.getpid() == owner:
            stop()
        else:  # the signal arrived before the child had its handlers back
            os.kill(os.getpid(), number)

    replaced = _Replaced(before)
    try:
        _replaced.append(replaced)
        for number in before:
            signal.signal(number, handle)
        yield
    finally:
        _replaced.remove(replaced)
        if os.getpid() == owner:
            replaced.put_back()


class _Replaced:
    """The application's signal handlers that ours have replaced."""

    def __init__(self, handlers: Mapping[signal.Signals, Any]) -> None:
        self._handlers = handlers

    def put_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


_replaced: Final[list[_Replaced]] = []


class _Held(threading.local):
    mask: set[Any] | None = None


_held: Final = _Held()


def _hold_signals() -> None:
    """Hold signals back during a fork: Python drops a signal that reaches a child too early."""
    if _replaced:
        _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))


def _release_signals() -> None:
    mask, _held.mask = _held.mask, None
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _give_back_in_child() -> None:
    for replaced in reversed(_replaced):
        replaced.put_back()
    _release_signals()


os.register_at_fork(
    before=_hold_signals,
    after_in_parent=_release_signals,
    after_in_child=_give_back_in_child,
)
