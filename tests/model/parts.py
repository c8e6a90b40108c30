"""The parts of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RowKey = tuple[int, int]


@dataclass(eq=False)
class Event:
    """An event as it was sent, and as it must be received."""

    id: int
    type: str | None
    payload: str | None
    extras: tuple[str | None, ...] = (None, None, None, None)
    created_at: Any = None


@dataclass(eq=False)
class Entry:
    """An event in the log, either sent to all or put back for one consumer."""

    event: Event
    transaction: int
    retry: int = 0
    owner: Reader | None = None
    commit: int = 0

    @property
    def key(self) -> RowKey:
        return self.event.id, self.retry

    def __repr__(self) -> str:
        return f"{self.event.id}/{self.retry}"


@dataclass(eq=False)
class Tick:
    id: int
    sees: int


@dataclass(eq=False)
class Waiting:
    """A retry. `held` is the open transaction that made it or puts it back."""

    event: Event
    retry: int
    due: bool
    held: object = None


@dataclass(eq=False)
class Batch:
    id: int
    entries: list[Entry]
    born: int


@dataclass(eq=False)
class Holder:
    """A consumer or a group's member, which can hold a batch. `left` is the unacked part."""

    name: str
    left: list[Entry] | None = None
    batch: Batch | None = None
    changed_by: Work | None = None


@dataclass(eq=False)
class Member(Holder):
    """A member of a group. Its `left` is its piece of a window."""


@dataclass(eq=False)
class Reader(Holder):
    """A consumer or a group. Its position is a tick; `end` is the end of its open window."""

    at: Tick = field(kw_only=True)
    end: Tick | None = None
    members: dict[str, Member] = field(default_factory=dict)
    waiting: dict[int, Waiting] = field(default_factory=dict)
    since: Tick = field(kw_only=True)
    sought: bool = False
    finished: Counter[int] = field(default_factory=Counter)
    nacked: set[Entry] = field(default_factory=set)
    again: set[int] = field(default_factory=set)
    buried: set[int] = field(default_factory=set)


@dataclass(eq=False)
class Work:
    """An open transaction of a consumer."""

    isolated: bool
    started: int
    newest: Tick | None
    max_retries: int
    undo: list[Callable[[], object]] = field(default_factory=list)
    touched: set[Reader] = field(default_factory=set)
    made: list[Waiting] = field(default_factory=list)


@dataclass(eq=False)
class PutBack:
    reader: Reader
    event_id: int
    waiting: Waiting


@dataclass(eq=False)
class Transaction:
    """An open or prepared transaction of a producer, with the items that its commit adds."""

    number: int
    isolation: str
    items: list[Entry | Tick | PutBack] = field(default_factory=list)
    savepoints: list[int] = field(default_factory=list)
    refuses_inserts: bool | None = None
    may_hold_tick_lock: bool = False
    has_notified: bool = False

    def back_to(self, length: int) -> None:
        for item in self.items[length:]:
            if isinstance(item, PutBack):
                item.waiting.held = None
        del self.items[length:]
