"""Formatting values for a terminal: durations, numbers, and text without control characters."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

FOREVER: Final = timedelta.max.total_seconds()


def readable(value: object) -> str:
    """Return a value as readable text; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return duration(value)
    if isinstance(value, datetime):
        return _moment(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return printable(str(value))


def _moment(time: datetime) -> str:
    if time.replace(tzinfo=None) in (datetime.min, datetime.max):  # stands for infinity
        return "-infinity" if time.year == 1 else "infinity"
    try:
        return time.astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):  # not a year of Python's in the local zone
        return time.isoformat(" ", "seconds")


def duration(time: timedelta | float | None) -> str:
    """Return seconds or a timedelta with two digits and a unit, such as 2.4 ms, 12 s or 1.5 h.

    A duration below ten thousand days takes at most seven characters. None becomes "-", and
    PostgreSQL's infinity becomes "forever".
    """
    if time is None:
        return "-"
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    if seconds >= FOREVER:
        return "forever"
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{_short(seconds * 1000)} ms" if seconds >= 0.00005 else "0 s"
    for unit, length, end in (("s", 1, 59.5), ("min", 60, 59.5), ("h", 3600, 47.5)):
        if seconds < end * length:
            return f"{_short(seconds / length)} {unit}"
    return f"{_short(seconds / 86400)} d"


def compact(number: float) -> str:
    """Return a number of at least 0 in at most five characters, such as 1.2k or 350M."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return _short(number) + unit
        number /= 1000
    return f"{number:,.0f}T"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 9.95 else f"{number:.0f}"


def printable(text: str) -> str:
    """Escape characters that would move a terminal's cursor or start a new line."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
