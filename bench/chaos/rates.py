"""How soon the rate of delivery is back after the faults of a round."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from bench.chaos.history import History

LEVEL: Final = 0.9
"""The share of the rate before that counts as the level before."""
STAYS: Final = 0.75
"""The same for the rest of the calm, in which producers roll back more or less by chance."""
WINDOW: Final = 2.0
STEP: Final = 0.1
SOON: Final = 5.0
"""Seconds within which the rate has to be back."""


class Recovery(NamedTuple):
    """After the last fault of a round: seconds until one consumer's rate was back, if it was."""

    consumer: str
    fault: str
    seconds: float | None
    before: float
    after: float
    """Events a second in the calm before the first fault, and from then on in this one."""


def recoveries(
    history: History, calms: Sequence[tuple[float, float]], faults: Sequence[str]
) -> list[Recovery]:
    """Measure each consumer in each calm but the first, beside the first.

    ``faults`` are those that the rounds ended with: each calm but the first follows one.
    """
    found = []
    for consumer in history.consumers:
        times = sorted(effect.at for effect in history.effects if effect.consumer == consumer)
        before = _rate(times, *calms[0]) if calms else 0.0
        for (began, ended), fault in zip(calms[1:], faults, strict=True):
            seconds = _recovered(times, began, ended, before)
            after = _rate(times, began + (seconds or 0.0), ended)
            found.append(Recovery(consumer, fault, seconds, before, after))
    return found


def too_late(found: Sequence[Recovery]) -> list[Recovery]:
    """Return those that were not back soon, or not to stay."""
    return [
        recovery
        for recovery in found
        if recovery.seconds is None
        or recovery.seconds > SOON
        or recovery.after < STAYS * recovery.before
    ]


def _recovered(times: Sequence[float], began: float, ended: float, before: float) -> float | None:
    """Seconds until the first window in which the rate is that of before."""
    start = began
    while start + WINDOW <= ended:
        if _rate(times, start, start + WINDOW) >= LEVEL * before:
            return start - began
        start += STEP
    return None


def _rate(times: Sequence[float], began: float, ended: float) -> float:
    count = bisect_left(times, ended) - bisect_left(times, began)
    return count / (ended - began)
