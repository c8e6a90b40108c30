"""The states of queues and consumers: a word with a sign, readable without colours.

SQL decides the words (`sql/wait`); top, the dashboard, the doctor and the metrics show them. This
module has the severity of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple


class Level(IntEnum):
    """Severity of a state."""

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

CONSUMER_STATES: Final = {
    "ok": Level.OK,
    "behind": Level.WARNING,
    "stuck": Level.FAULT,
    "silent": Level.FAULT,
    "crash loop": Level.FAULT,
}
"""The states of `pgque.get_consumer_wait`, worst last; `pgque_consumer_state` is the index."""
_QUEUE_STATES: Final = {"ok": Level.OK, "paused": Level.WARNING, "no tick": Level.FAULT}
"""The states of `pgque.get_queue_wait`."""


class State(NamedTuple):
    """A word and its severity. States compare by severity first."""

    level: Level
    word: str

    @property
    def text(self) -> str:
        """The word with its sign."""
        return _SIGNS[self.level] + self.word

    @property
    def style(self) -> str:
        """Its colour, as a style of rich."""
        return STYLES[self.level]


OK: Final = State(Level.OK, "ok")


def of_consumer(word: str) -> State:
    """Return a consumer's state by its word in `pgque.get_consumer_wait`."""
    return State(CONSUMER_STATES.get(word, Level.WARNING), word)


def of_queue(word: str, consumers: Iterable[State]) -> State:
    """Return a queue's state: its own, or that of its worst consumer if worse.

    :param word: its state in `pgque.get_queue_wait`.
    :param consumers: the states of its consumers.
    """
    found = [*consumers]
    own = [State(_QUEUE_STATES.get(word, Level.WARNING), word)]
    unread = [] if found else [State(Level.NOTE, "no reader")]
    return max([*found, *own, *unread], key=_badness)


def _badness(state: State) -> tuple[Level, int]:
    words = list(CONSUMER_STATES)
    return state.level, words.index(state.word) if state.word in words else -1
