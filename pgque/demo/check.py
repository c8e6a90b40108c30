"""The final check: compares the database with the file.

The expected results are computed here from the file's raw rows, in plain Python. So a bug in the
producer, a handler or the queue cannot affect both sides.
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
"""The departures of each carrier and their mean delay in minutes."""

Gates = Mapping[tuple[str, int], int]
"""The number of flights per airport and day."""


@dataclass(frozen=True)
class Truth:
    """The expected results, from the file."""

    flights: frozenset[str]
    cancelled: frozenset[str]
    delays: Delays
    gates: Gates


@dataclass(frozen=True)
class Outcome:
    """The results in the database, with the number of times each flight was counted."""

    sent: Counter[str]
    delays: Counter[str]
    gates: Counter[str]
    audit: Counter[str]
    dead: Counter[str]
    delay_table: Delays
    gate_table: Gates
    dead_retries: frozenset[int]
    """The retry counts at which flights became dead letters."""


@dataclass(frozen=True)
class Count:
    """A list of flights compared with the expected one."""

    name: str
    flights: int
    lost: list[str]
    twice: list[str]
    unknown: list[str]
    """Flights that were not expected."""

    @property
    def right(self) -> bool:
        """Whether it holds each expected flight once, and no other."""
        return not (self.lost or self.twice or self.unknown)


@dataclass(frozen=True)
class Verdict:
    """All counts, and descriptions of other differences."""

    counts: list[Count]
    differences: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether nothing differs."""
        return not self.differences and all(count.right for count in self.counts)


def sum_up(rows: Iterable[Mapping[str, str]] | None = None) -> Truth:
    """Return the expected results for rows, or for the file if ``rows`` is None."""
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
    """Compare the results in the database with the expected ones."""
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
        differences.append(f"dead letters after {wrong} retries instead of {MAX_RETRIES}")
    return Verdict(counts, differences)


def count(name: str, expected: frozenset[str], found: Counter[str]) -> Count:
    """Find flights that are missing, counted more than once or not expected."""
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
        f"{what} {key}: {_show(found.get(key))}, but the file says {_show(expected.get(key))}"
        for key in keys
        if expected.get(key) != found.get(key)
    ]


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return f"{value[0]} departures, mean delay {value[1]} min"
    return "nothing" if value is None else str(value)
