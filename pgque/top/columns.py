"""The columns of each list."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

from pgque.top.history import ConsumerRow, QueueRow, Trend
from pgque.top.spark import spark
from pgque.top.table import Cell, Column, cut, shorten
from pgque.watching.browse import Letter, Retry, Sent
from pgque.watching.readable import compact, duration, readable
from pgque.watching.states import Level

T = TypeVar("T")

_UNKNOWN: Final = Cell("-", "dim")


def _rate(title: str, rate: Callable[[T], float | None]) -> Column[T]:
    def cell(thing: T, width: int) -> Cell:
        return _UNKNOWN if (value := rate(thing)) is None else Cell(compact(value))

    return Column(title, cell, rate, max(5, len(title)))


def _count(
    title: str, count: Callable[[T], int], width: int, style: str = "", from_width: int = 0
) -> Column[T]:
    def cell(thing: T, width: int) -> Cell:
        value = count(thing)
        return Cell(compact(value), style if value else "dim")

    return Column(title, cell, count, width, from_width=from_width)


def _time(title: str, seconds: Callable[[T], float], from_width: int = 0) -> Column[T]:
    def cell(thing: T, width: int) -> Cell:
        return Cell(duration(seconds(thing)))

    return Column(title, cell, seconds, 7, from_width=from_width)


def _waiting(waiting: Callable[[T], float], state: Callable[[T], Any]) -> Column[T]:
    def cell(thing: T, width: int) -> Cell:
        found = state(thing)
        style = found.style if found.level >= Level.WARNING else ""
        return Cell(duration(waiting(thing)), style)

    return Column("WAITING", cell, waiting, 7)


def _trend(trend: Callable[[T], Trend]) -> Column[T]:
    def cell(thing: T, width: int) -> Cell:
        return Cell(spark(trend(thing), width)[0], "cyan")

    return Column("TREND", cell, None, _trend_width, left=True)


def _trend_width(room: int) -> int:
    return 6 if room < 90 else 10 if room < 110 else 24


def _name(title: str, name: Callable[[T], str]) -> Column[T]:
    def cell(thing: T, width: int) -> Cell:
        return Cell(shorten(name(thing), width), "bold")

    return Column(title, cell, name, left=True, largest_first=False)


def _state(state: Callable[[T], Any]) -> Column[T]:
    def cell(thing: T, width: int) -> Cell:
        found = state(thing)
        return Cell(found.text, found.style)

    return Column("STATE", cell, lambda thing: state(thing).level, 13, left=True)


def _text(
    title: str,
    text: Callable[[T], str | None],
    width: int | Callable[[int], int] = 0,
    from_width: int = 0,
) -> Column[T]:
    def cell(thing: T, width: int) -> Cell:
        return Cell(cut(text(thing), width))

    return Column(title, cell, text, width, left=True, largest_first=False, from_width=from_width)


def _id(title: str, number: Callable[[T], int]) -> Column[T]:
    return Column(title, lambda thing, width: Cell(str(number(thing))), number, 9)


def _age(title: str, at: Callable[[T], datetime | None], now: Callable[[], float]) -> Column[T]:
    def age(thing: T) -> float | None:
        moment = at(thing)
        return None if moment is None else max(0.0, now() - moment.timestamp())

    return Column(title, lambda thing, width: Cell(duration(age(thing))), age, 7)


def _half(room: int) -> int:
    return 12 if room < 120 else 20


QUEUES: Final[list[Column[QueueRow]]] = [
    _name("QUEUE", lambda row: row.now.queue),
    _rate("IN/S", lambda row: row.now.rate),
    _trend(lambda row: row.trend),
    _rate("OUT/S", lambda row: row.out),
    _count("PENDING", lambda row: row.pending, 7),
    _waiting(lambda row: row.lag, lambda row: row.state),
    _count("HELD", lambda row: row.in_flight, 4),
    _count("RETRY", lambda row: row.now.retries, 5, "yellow"),
    _count("DEAD", lambda row: row.now.dead, 5, "red"),
    _count("CONSUMERS", lambda row: row.consumers, 9, from_width=100),
    _time("TICKED", lambda row: row.now.tick_age, from_width=100),
    _count("UNTICKED", lambda row: row.now.unticked, 8, from_width=130),
    _count("SENT", lambda row: row.now.sent, 5, from_width=130),
    _time("ROTATED", lambda row: row.now.rotation_age, from_width=130),
    _state(lambda row: row.state),
]
_CONSUMERS: Final[list[Column[ConsumerRow]]] = [
    _rate("DONE/S", lambda row: row.now.rate),
    _trend(lambda row: row.trend),
    _count("PENDING", lambda row: row.now.pending, 7),
    _waiting(lambda row: row.now.lag, lambda row: row.state),
    _time("SEEN", lambda row: row.now.last_seen),
    Column(
        "HELD",
        lambda row, width: Cell("batch") if row.now.holds_batch else _UNKNOWN,
        lambda row: row.now.holds_batch,
        5,
        left=True,
    ),
    _state(lambda row: row.state),
]
_CONSUMER: Final[Column[ConsumerRow]] = _name("CONSUMER", lambda row: row.now.consumer)
CONSUMERS: Final = [_CONSUMER, _name("QUEUE", lambda row: row.now.queue), *_CONSUMERS]
CONSUMERS_OF_QUEUE: Final = [_CONSUMER, *_CONSUMERS]


def messages(now: Callable[[], float]) -> list[Column[Sent]]:
    """Return the columns of a queue's events; ``now`` is the server's time."""
    return [
        _id("EVENT", lambda event: event.id),
        _age("AGE", lambda event: event.created, now),
        _text("TYPE", lambda event: event.type, lambda room: _half(room) + 4),
        _text("KEY", lambda event: event.key, _half),
        _text("PAYLOAD", lambda event: event.payload),
    ]


def retries(now: Callable[[], float]) -> list[Column[Retry]]:
    """Return the columns of retries."""

    def due(retry: Retry) -> float:
        return retry.due.timestamp() - now()

    def when(retry: Retry, width: int) -> Cell:
        seconds = due(retry)
        return Cell(f"in {duration(seconds)}") if seconds > 0 else Cell("now")

    return [
        _id("EVENT", lambda retry: retry.id),
        Column("DUE", when, due, 10, largest_first=False),
        _count("RETRY", lambda retry: retry.retries, 5),
        _text("CONSUMER", lambda retry: retry.consumer, _half),
        _text("TYPE", lambda retry: retry.type, _half),
        _text("PAYLOAD", lambda retry: retry.payload),
    ]


def letters(now: Callable[[], float]) -> list[Column[Letter]]:
    """Return the columns of dead letters."""
    return [
        _id("ID", lambda letter: letter.letter),
        _age("AGE", lambda letter: letter.died, now),
        _text("CONSUMER", lambda letter: letter.consumer, _half),
        _text("TYPE", lambda letter: letter.type, _half),
        _text("REASON", lambda letter: letter.reason),
        _text("PAYLOAD", lambda letter: letter.payload, from_width=110),
    ]


SETTINGS: Final[list[Column[tuple[str, object]]]] = [
    _text("SETTING", lambda line: line[0], 20),
    _text("VALUE", lambda line: readable(line[1])),
]
