"""The flights that the demo sends: one week of departures from New York."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("flights.csv.gz")
DAYS = range(1, 8)
"""The days of January 2013 in the file."""

DEPARTED = "flight.departed"
CANCELLED = "flight.cancelled"

_TEXTS = frozenset({"carrier", "tailnum", "origin", "dest", "time_hour"})


@dataclass(frozen=True, slots=True)
class Flight:
    """A flight as an event: its type, and as payload the file's row with typed numbers."""

    type: str
    payload: dict[str, Any]


def load() -> list[Flight]:
    """Return all flights by scheduled departure."""
    flights = [_flight(row) for row in read_rows()]
    flights.sort(key=lambda f: (f.payload["day"], f.payload["sched_dep_time"]))
    return flights


def read_rows() -> Iterator[dict[str, str]]:
    """Yield the file's rows unchanged."""
    with gzip.open(DATA, "rt", encoding="ascii", newline="") as file:
        yield from csv.DictReader(file)


def _flight(row: dict[str, str]) -> Flight:
    payload = {name: _value(name, text) for name, text in row.items()}
    payload["id"] = name_flight(payload)
    return Flight(CANCELLED if payload["dep_time"] is None else DEPARTED, payload)


def name_flight(payload: dict[str, Any]) -> str:
    """Return the unique name of a flight, such as ``2013-01-04 UA1545``."""
    year, month, day = payload["year"], payload["month"], payload["day"]
    return f"{year}-{month:02}-{day:02} {payload['carrier']}{payload['flight']}"


def _value(name: str, text: str) -> str | int | None:
    if text == "NA":
        return None
    return text if name in _TEXTS else int(text)
