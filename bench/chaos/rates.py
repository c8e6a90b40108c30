"""How soon the rate of delivery recovers after the faults of a round."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from bench.chaos.history import History

LEVEL: Final = 0.9
"""The share of the earlier rate that counts as recovered."""
STAYS: Final = 0.75
"""The same share for the rest of the calm, lower because producers roll back at random."""
WINDOW: Final = 2.0
STEP: Final = 0.1
SOON: Final = 5.0
"""Seconds within which the rate must recover."""


class Recovery(NamedTuple):
    """Seconds until one consumer's rate recovered after the last fault of a round, if it did."""

    consumer: str
    fault: str
    seconds: float | None
    before: float
    after: float
    """Events per second: ``before`` in the first calm, ``after`` in this one once recovered."""


def recoveries(
    history: History, calms: Sequence[tuple[float, float]], faults: Sequence[str]
) -> list[Recovery]:
    """Compare each consumer's rate in each later calm with its rate in the first.

    ``faults`` are the last faults of the rounds: each calm but the first follows one.
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
    """Return the recoveries that came too late or did not last."""
    return [
        recovery
        for recovery in found
        if recovery.seconds is None
        or recovery.seconds > SOON
        or recovery.after < STAYS * recovery.before
    ]


def _recovered(times: Sequence[float], began: float, ended: float, before: float) -> float | None:
    """Return the seconds until the first window with the earlier rate."""
    start = began
    while start + WINDOW <= ended:
        if _rate(times, start, start + WINDOW) >= LEVEL * before:
            return start - began
        start += STEP
    return None


def _rate(times: Sequence[float], began: float, ended: float) -> float:
    count = bisect_left(times, ended) - bisect_left(times, began)
    return count / (ended - began)
