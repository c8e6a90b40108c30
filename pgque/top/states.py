"""What is wrong with a queue or a consumer, in a word with a sign: colour only adds to it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from pgque.live import LATE, STUCK

BEHIND: Final = 60.0
"""Seconds of lag from which a consumer is behind."""


class Level(IntEnum):
    """How bad it is."""

    OK = 0
    NOTE = 1
    WARNING = 2
    FAULT = 3


_SIGNS: Final = {Level.OK: "", Level.NOTE: "", Level.WARNING: "! ", Level.FAULT: "!! "}
STYLES: Final = {
    Level.OK: "green",
    Level.NOTE: "dim",
    Level.WARNING: "bold yellow",
    Level.FAULT: "bold red",
}


class State(NamedTuple):
    """A word and how bad it is. States are compared by how bad they are first."""

    level: Level
    word: str

    @property
    def text(self) -> str:
        """The word with its sign."""
        return _SIGNS[self.level] + self.word

    @property
    def style(self) -> str:
        """The colour that goes with it."""
        return STYLES[self.level]


OK: Final = State(Level.OK, "ok")


def of_lag(lag: float) -> Level:
    """Return how bad a lag in seconds is."""
    if lag >= STUCK:
        return Level.FAULT
    return Level.WARNING if lag >= BEHIND else Level.OK


def of_consumer(lag: float, silent: float) -> State:
    """Return a consumer's state.

    :param lag: seconds since which something is before it.
    :param silent: seconds since which it gives no sign of life although something is.
    """
    if silent >= STUCK:
        return State(Level.FAULT, "silent")
    if lag >= STUCK:
        return State(Level.FAULT, "stuck")
    return State(Level.WARNING, "behind") if lag >= BEHIND else OK


def of_queue(paused: bool, unticked: float, consumers: list[State]) -> State:
    """Return a queue's state: its own, or that of the consumer which is worst.

    :param unticked: seconds since which events wait for a tick.
    """
    found = [*consumers]
    if paused:
        found.append(State(Level.WARNING, "paused"))
    elif unticked >= LATE:
        found.append(State(Level.FAULT, "no tick"))
    if not consumers:
        found.append(State(Level.NOTE, "no reader"))
    return max(found, key=lambda state: state.level)
