"""What long-running parts share: stopping, signals, and patience after an error."""

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
    """Pauses between attempts: doubled each time up to the longest, with jitter."""

    def __init__(self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> None:
        self._first = self._ceiling = first
        self._longest = longest

    def next(self) -> float:
        """Return the next pause in seconds."""
        pause = random.uniform(self._ceiling / 4, self._ceiling)  # noqa: S311
        self._ceiling = min(self._ceiling * 2, self._longest)
        return pause

    def reset(self) -> None:
        """Begin anew, after something has worked."""
        self._ceiling = self._first


def warn_of_pause(
    logger: logging.Logger, who: str, error: Exception, pause: float, fields: Fields
) -> None:
    """Log what went wrong, and in how many seconds it is tried again."""
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
    """Call `stop` on SIGTERM and SIGINT within the block; a second one acts as it did before.

    Only the main thread can have signal handlers: in any other this does nothing. Forked children
    have the handlers from before: a signal to one of them is not about this process.
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
        else:  # it came before the child had its handlers back
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
    """Signal handlers of the application for which ours stand in."""

    def __init__(self, handlers: Mapping[signal.Signals, Any]) -> None:
        self._handlers = handlers

    def put_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


_replaced: Final[list[_Replaced]] = []


def _give_back_in_child() -> None:
    for replaced in reversed(_replaced):
        replaced.put_back()


os.register_at_fork(after_in_child=_give_back_in_child)
