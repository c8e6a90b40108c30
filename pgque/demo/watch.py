"""Reads the figures and the outcome of the demo from the database."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pgque.client import PgqueClient
from pgque.demo.check import Outcome
from pgque.demo.tables import GROUP, QUEUE
from pgque.errors import mapped

if TYPE_CHECKING:
    from typing_extensions import LiteralString

CONSUMERS = ("delays", GROUP, "audit")


@dataclass(frozen=True)
class Figures:
    """Current figures of one consumer. Times are in seconds, None if unknown."""

    delivered: int = 0
    lag: float | None = None
    median: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Reading:
    """All current figures."""

    sent: int
    departure: datetime | None
    """The scheduled departure of the last flight sent."""
    consumers: dict[str, Figures]
    retries: int
    dead: int
    carriers: list[tuple[str, int, Decimal]]
    """Carrier, departures and mean delay in minutes, largest carriers first."""

    @property
    def progress(self) -> tuple[int, ...]:
        """Numbers of which at least one grows while the demo makes progress."""
        delivered = [figures.delivered for figures in self.consumers.values()]
        return (self.sent, self.retries, self.dead, *delivered)


@dataclass(frozen=True)
class Note:
    """A note that a worker wrote outside its transactions."""

    note_id: int
    member: str
    kind: str
    detail: dict[str, Any]


class Watch:
    """Reads through a client in autocommit mode."""

    def __init__(self, client: PgqueClient) -> None:
        self._client = client
        self._last_note = 0

    def read(self) -> Reading:
        """Read all figures."""
        sent, departure = self._row("select count(*), max(departure) from pgque_demo.sent")
        refusals = "select count(*) from pgque_demo.note where kind = 'refused'"
        (retries,) = self._row(f"{refusals} and (detail ->> 'retry')::int > 0")
        return Reading(
            sent=sent,
            departure=departure,
            consumers=self._consumers(),
            retries=retries,
            dead=len(self._client.dead_letters(QUEUE, 100_000)),
            carriers=[
                (carrier, departures, mean)
                for carrier, departures, mean in self._rows(
                    "select carrier, departures, mean from pgque_demo.delays"
                    " order by departures desc, carrier"
                )
            ],
        )

    def _consumers(self) -> dict[str, Figures]:
        lags = {
            info.consumer_name: info.lag.total_seconds()
            for info in self._client.consumer_info(QUEUE)
            if info.lag is not None
        }
        found = {
            name: Figures(delivered, lags.get(name), median, p99)
            for name, delivered, (median, p99) in self._rows(
                """
                select consumer, count(*),
                       percentile_cont(array[0.5, 0.99]) within group (order by latency)
                  from pgque_demo.delivery
                 group by consumer
                """
            )
        }
        return {name: found.get(name, Figures(lag=lags.get(name))) for name in CONSUMERS}

    def new_notes(self) -> list[Note]:
        """Return the notes since the last call."""
        rows = self._rows(
            "select note_id, member, kind, detail from pgque_demo.note"
            " where note_id > %s order by note_id",
            [self._last_note],
        )
        notes = [Note(*row) for row in rows]
        if notes:
            self._last_note = notes[-1].note_id
        return notes

    def now(self) -> datetime:
        """Return the server's time."""
        time: datetime
        (time,) = self._row("select clock_timestamp()")
        return time

    def find_deliveries(self, consumer: str, flights: list[str]) -> dict[str, tuple[str, datetime]]:
        """Return for each flight the member that handled it, and when."""
        rows = self._rows(
            "select flight, member, delivered_at from pgque_demo.delivery"
            " where consumer = %s and flight = any (%s)",
            [consumer, flights],
        )
        return {flight: (member, at) for flight, member, at in rows}

    def calls(self) -> dict[str, int]:
        """Return the number of flights sent by each call."""
        return dict(self._rows("select call, count(*) from pgque_demo.sent group by call"))

    def outcome(self) -> Outcome:
        """Read the results to compare with the file."""
        delivered = {
            name: self._flights(
                "select flight from pgque_demo.delivery where consumer = %s", [name]
            )
            for name in CONSUMERS
        }
        letters = self._client.dead_letters(QUEUE, 100_000)
        by_carrier = self._rows("select carrier, departures, mean from pgque_demo.delays")
        by_gate = self._rows("select airport, day, count(*) from pgque_demo.gates group by 1, 2")
        return Outcome(
            sent=self._flights("select flight from pgque_demo.sent"),
            delays=delivered["delays"],
            gates=delivered[GROUP],
            audit=delivered["audit"],
            dead=Counter(json.loads(letter.ev_data or "")["id"] for letter in letters),
            delay_table={carrier: (number, mean) for carrier, number, mean in by_carrier},
            gate_table={(airport, day): number for airport, day, number in by_gate},
            dead_retries=frozenset(letter.ev_retry or 0 for letter in letters),
        )

    def _flights(self, query: LiteralString, values: Sequence[object] = ()) -> Counter[str]:
        return Counter(flight for (flight,) in self._rows(query, values))

    def _row(self, query: LiteralString) -> tuple[Any, ...]:
        (row,) = self._rows(query)
        return row

    def _rows(self, query: LiteralString, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with mapped:
            return self._client.conn.execute(query, values).fetchall()
