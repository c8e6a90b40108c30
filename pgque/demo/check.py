"""The reckoning: what the database holds against what the file says.

The sums of the file are made here once more, from its raw rows and in plain Python, so that a
mistake in the producer, in a handler or in the queue cannot be on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import TypeVar

from pgque.demo.flights import read_rows
from pgque.demo.tables import MAX_RETRIES

K = TypeVar("K")
V = TypeVar("V")

Delays = Mapping[str, tuple[int, Decimal]]
"""For each carrier its departures and their mean delay in minutes."""

Gates = Mapping[tuple[str, int], int]
"""The flights of each airport and day."""


@dataclass(frozen=True)
class Truth:
    """What the file says."""

    flights: frozenset[str]
    cancelled: frozenset[str]
    delays: Delays
    gates: Gates


@dataclass(frozen=True)
class Outcome:
    """What the database holds at the end; flights with the number of times they were counted."""

    sent: Counter[str]
    delays: Counter[str]
    gates: Counter[str]
    audit: Counter[str]
    dead: Counter[str]
    delay_table: Delays
    gate_table: Gates
    dead_retries: frozenset[int]
    """After how many retries flights became dead letters."""


@dataclass(frozen=True)
class Count:
    """One list of flights against what it should be."""

    name: str
    flights: int
    lost: list[str]
    twice: list[str]
    unknown: list[str]
    """Flights that should not be there at all."""

    @property
    def right(self) -> bool:
        """Whether each flight is there once, and no other."""
        return not (self.lost or self.twice or self.unknown)


@dataclass(frozen=True)
class Verdict:
    """All counts, and in words whatever else differs."""

    counts: list[Count]
    differences: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and all(count.right for count in self.counts)


def sum_up(rows: Iterable[Mapping[str, str]] | None = None) -> Truth:
    """Return what the rows say, without them what the file says."""
    flights, cancelled = set(), set()
    departures: Counter[str] = Counter()
    minutes: Counter[str] = Counter()
    gates: Counter[tuple[str, int]] = Counter()
    for row in read_rows() if rows is None else rows:
        date = f"{row['year']}-{row['month'].zfill(2)}-{row['day'].zfill(2)}"
        flight = f"{date} {row['carrier']}{row['flight']}"
        flights.add(flight)
        gates[row["origin"], int(row["day"])] += 1
        if row["dep_time"] == "NA":
            cancelled.add(flight)
        else:
            departures[row["carrier"]] += 1
            minutes[row["carrier"]] += int(row["dep_delay"])
    means = {c: (n, _mean(minutes[c], n)) for c, n in departures.items()}
    return Truth(frozenset(flights), frozenset(cancelled), means, dict(gates))


def _mean(total: int, number: int) -> Decimal:
    return (Decimal(total) / number).quantize(Decimal("0.01"), ROUND_HALF_UP)


def compare(truth: Truth, outcome: Outcome) -> Verdict:
    """Hold what the database holds against what the file says."""
    counts = [
        count("sent", truth.flights, outcome.sent),
        count("delays", truth.flights, outcome.delays),
        count("gates", truth.flights, outcome.gates),
        count("audit", truth.flights - truth.cancelled, outcome.audit),
        count("dead letters", truth.cancelled, outcome.dead),
    ]
    differences = _differ("delays of", truth.delays, outcome.delay_table)
    differences += _differ("flights at", truth.gates, outcome.gate_table)
    if wrong := sorted(outcome.dead_retries - {MAX_RETRIES}):
        differences.append(f"dead letters after {wrong} retries, not after {MAX_RETRIES}")
    return Verdict(counts, differences)


def count(name: str, expected: frozenset[str], found: Counter[str]) -> Count:
    """Find the flights that are missing, counted more than once, or not expected."""
    return Count(
        name,
        flights=found.total(),
        lost=sorted(expected - found.keys()),
        twice=sorted(flight for flight, times in found.items() if times > 1),
        unknown=sorted(found.keys() - expected),
    )


def _differ(what: str, expected: Mapping[K, V], found: Mapping[K, V]) -> list[str]:
    keys = sorted({*expected, *found}, key=str)
    return [
        f"{what} {key}: {_show(found.get(key))}, but by the file {_show(expected.get(key))}"
        for key in keys
        if expected.get(key) != found.get(key)
    ]


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return f"{value[0]} departures, mean delay {value[1]} min"
    return "nothing" if value is None else str(value)
