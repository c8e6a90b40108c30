"""The producer of the demo. It sends flights at a steady rate, each wave in one transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from pgque.client import PgqueClient, connect
from pgque.demo.flights import Flight, load
from pgque.demo.tables import QUEUE

WAVE_EVERY = 0.02
LARGEST_WAVE = 100


class Producer:
    """Sends all flights in waves, alternating between `send` and `send_batch`.

    ``rate`` is in events per second; 0 means as fast as possible.
    """

    def __init__(self, dsn: str, rate: float) -> None:
        self._dsn = dsn
        self._rate = rate
        self._stop = threading.Event()

    def run(self) -> None:
        """Send all flights, or until `stop` is called."""
        with connect(self._dsn) as client:
            for number, wave in enumerate(pace(load(), self._rate, self._stop)):
                with client.conn.transaction():
                    if number % 2:
                        _send_together(client, wave)
                    else:
                        _send_one_by_one(client, wave)

    def stop(self) -> None:
        """Make `run` return after the current wave."""
        self._stop.set()


def pace(
    flights: Sequence[Flight], rate: float, stop: threading.Event
) -> Iterator[Sequence[Flight]]:
    """Split the flights into waves and yield each one when it is due."""
    began = time.monotonic()
    done = 0
    while done < len(flights) and not stop.is_set():
        due = int((time.monotonic() - began) * rate) + 1 if rate else len(flights)
        wave = flights[done : min(due, done + LARGEST_WAVE)]
        done += len(wave)
        if wave:
            yield wave
        if done >= due:
            next_due = began + done / rate if rate else 0
            stop.wait(max(WAVE_EVERY, next_due - time.monotonic()))


def _send_one_by_one(client: PgqueClient, wave: Sequence[Flight]) -> None:
    for flight in wave:
        client.send(QUEUE, flight.payload, type=flight.type)
    _record(client, "send", wave)


def _send_together(client: PgqueClient, wave: Sequence[Flight]) -> None:
    for kind, flights in groupby(wave, key=lambda flight: flight.type):
        client.send_batch(QUEUE, kind, [flight.payload for flight in flights])
    _record(client, "send_batch", wave)


def _record(client: PgqueClient, call: str, wave: Sequence[Flight]) -> None:
    """Record the sent flights, as an application would, in the transaction that sends them."""
    client.conn.execute(
        """
        insert into pgque_demo.sent (flight, call, departure)
        select s.flight, %s, s.departure
        from unnest(%s::text[], %s::timestamp[]) as s (flight, departure)
        """,
        (
            call,
            [flight.payload["id"] for flight in wave],
            [_departure(flight) for flight in wave],
        ),
    )


def _departure(flight: Flight) -> str:
    p = flight.payload
    return f"{p['year']}-{p['month']:02}-{p['day']:02} {p['hour']:02}:{p['minute']:02}"
