"""Text sparklines: one bar per sample, scaled to the largest one shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float | None], width: int, height: int = 1) -> list[str]:
    """Return lines of the given width, newest value on the right; unknown values leave a gap."""
    shown = [None] * (width - len(values)) + list(values[-width:])
    most = max((value for value in shown if value is not None), default=0.0)
    steps = len(BARS) * height
    levels = [
        0 if value is None else max(1, round(value / most * steps)) if most > 0 else 1
        for value in shown
    ]
    return [
        "".join(_bar(level - line * len(BARS)) for level in levels)
        for line in reversed(range(height))
    ]


def _bar(eighths: int) -> str:
    return " " if eighths <= 0 else BARS[min(eighths, len(BARS)) - 1]
