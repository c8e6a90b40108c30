"""Figures of the last half hour for the plots, at most `SLOTS` points per line."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Mapping
from math import isnan, nan
from typing import Final, NamedTuple

SLOTS: Final = 600
SLOT_SECONDS: Final = 3.0
_LOOK_FOR_OLD_EVERY: Final = 60


class Key(NamedTuple):
    """Names a line in a plot."""

    queue: str | None
    """None for the overview of all queues."""
    plot: str
    """``rate``, ``lag`` or ``latency``."""
    name: str
    """A consumer's name; empty for the events sent."""


class History:
    """Lines of points, each for a few seconds. The newest points replace the oldest.

    A point combines the values recorded in its seconds: the mean for rates, otherwise the largest.

    :param slots: the number of points kept, default 600.
    :param seconds: the seconds per point, default 3.
    """

    def __init__(self, *, slots: int = SLOTS, seconds: float = SLOT_SECONDS) -> None:
        self._slots = slots
        self._seconds = seconds
        self._lines: dict[Key, array[float]] = {}
        self._used: dict[Key, int] = {}
        self._sums: dict[Key, tuple[float, int]] = {}
        self._first = self._newest = 0
        self._guard = threading.Lock()

    def record(self, at: float, points: Mapping[Key, float | None]) -> None:
        """Add the values of a sample.

        :param at: seconds since 1970.
        :param points: a value per line; None if there is nothing to show.
        """
        slot = int(at / self._seconds)
        with self._guard:
            if slot != self._newest:
                self._begin(slot)
            place = slot % self._slots
            for key, value in points.items():
                if value is None:
                    continue
                line = self._lines.get(key)
                if line is None:
                    line = self._lines[key] = array("f", [nan]) * self._slots
                self._used[key] = slot
                before, count = self._sums.get(key, (0.0, 0))
                if key.plot == "rate":
                    self._sums[key] = before + value, count + 1
                    line[place] = (before + value) / (count + 1)
                else:
                    self._sums[key] = max(before, value), 1
                    line[place] = max(before, value)

    def _begin(self, slot: int) -> None:
        self._sums.clear()
        if not 0 < slot - self._newest < self._slots:
            # The first slot, or the clock jumped, or the last sample is too old.
            self._lines.clear()
            self._used.clear()
            self._first = slot
        else:
            for passed in range(self._newest + 1, slot + 1):
                for line in self._lines.values():
                    line[passed % self._slots] = nan
        self._newest = slot
        self._first = max(self._first, slot - self._slots + 1)
        if slot % _LOOK_FOR_OLD_EVERY == 0:
            for key in [key for key, last in self._used.items() if last < self._first]:
                del self._lines[key], self._used[key]

    def read(self, queue: str | None) -> tuple[list[float], dict[Key, list[float | None]]]:
        """Return the times of the points, and the lines of one queue or of the overview."""
        with self._guard:
            if not self._lines:
                return [], {}
            slots = range(self._first, self._newest + 1)
            times = [slot * self._seconds for slot in slots]
            lines = {
                key: [_plain(line[slot % self._slots]) for slot in slots]
                for key, line in self._lines.items()
                if key.queue == queue
            }
        return times, lines


def _plain(value: float) -> float | None:
    return None if isnan(value) else round(value, 4)
