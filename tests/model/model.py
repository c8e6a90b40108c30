"""The expected behaviour, in plain Python.

The machine has one thread, so it knows the order of commits, and therefore which events each tick
sees: a tick's `sees` is the number of the last commit before it. The contents of a window, the
events owed to a consumer and the state of a batch id follow from this and from the results of
earlier calls. The model uses neither tables nor transaction ids.

A consumer's transaction may stay open and roll back later. Its changes are undone one by one
(`Work.undo`), because others change the rows that it has not locked in the meantime.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from tests.fix_engine import Message
from tests.model.parts import (
    Batch,
    Entry,
    Holder,
    Member,
    PutBack,
    Reader,
    RowKey,
    Tick,
    Waiting,
    Work,
)


class Model:
    """One queue: its log, its ticks and its readers."""

    def __init__(self, first_tick: int) -> None:
        self.now = 0
        self.log: list[Entry] = []
        self.ticks: list[Tick] = []
        self.by_id: dict[int, Tick] = {}
        self.readers: dict[str, Reader] = {}
        self.dead: dict[tuple[str, int], int] = {}
        self.known_batches: list[int] = []
        self.max_retries = 5
        self.clock = 0
        self.work: Work | None = None
        self.copied: set[int] = set()
        self.ticked(Tick(first_tick, 0))

    # Commits and ticks

    def commit(self, items: Iterable[Entry | Tick | PutBack], number: int) -> None:
        self.now += 1
        for item in items:
            if isinstance(item, Tick):
                self.ticked(item)
                continue
            if isinstance(item, PutBack):
                w = item.waiting
                del item.reader.waiting[item.event_id]
                item = Entry(w.event, number, w.retry, item.reader)
            item.commit = self.now
            self.log.append(item)

    def ticked(self, tick: Tick) -> None:
        if self.ticks:
            assert tick.id > self.ticks[-1].id, "a tick id that does not increase"
            assert tick.sees >= self.ticks[-1].sees
        self.ticks.append(tick)
        self.by_id[tick.id] = tick

    @property
    def newest(self) -> Tick:
        """The newest tick that the current transaction can see."""
        if self.work and self.work.newest:
            return self.work.newest
        return self.ticks[-1]

    def thin(self, kept: set[int], current: set[int]) -> None:
        """Drop the ticks that a rotation of the ledger removed; each reader's tick must remain.

        After ticks are copied to the current child, and until the other child is truncated, a
        reader may already follow the copies.
        """
        self.copied = current if current != kept else set()
        self.ticks = [tick for tick in self.ticks if tick.id in kept]
        for reader in self.readers.values():
            assert reader.at.id in kept, f"the tick of {reader.name}'s position was removed"
            assert not reader.end or reader.end.id in kept, (
                f"the end of {reader.name}'s open window was removed"
            )

    def after(self, tick: Tick) -> list[Tick]:
        """Return the later ticks that the current transaction can see."""
        return [t for t in self.ticks if tick.id < t.id <= self.newest.id]

    def next_of(self, tick: Tick) -> list[Tick]:
        """Return the next tick, and the next one among the copies: see `thin`."""
        following = self.after(tick)
        if tick.id not in self.copied:
            return following[:1]
        newest = max(self.copied)
        copies = [t for t in following if t.id in self.copied or t.id > newest]
        return following[:1] + copies[:1]

    def has_news(self, tick: Tick) -> bool:
        return bool(self.log) and self.log[-1].commit > tick.sees

    def between(self, earlier: Tick, later: Tick, reader: Reader | None) -> list[Entry]:
        """Return the reader's entries that the later tick sees and the earlier one does not."""
        first = bisect_right(self.log, earlier.sees, key=lambda entry: entry.commit)
        last = bisect_right(self.log, later.sees, key=lambda entry: entry.commit)
        return [e for e in self.log[first:last] if e.owner is None or e.owner is reader]

    # Changes that a rollback undoes

    @contextlib.contextmanager
    def inside(self, work: Work | None) -> Iterator[None]:
        self.work = work
        try:
            yield
        finally:
            self.work = None

    def _undoable(self, undo: Callable[[], object]) -> None:
        if self.work:
            self.work.undo.append(undo)

    def put(self, holder: Holder, **values: Any) -> None:
        for name, value in values.items():
            self._undoable(partial(setattr, holder, name, getattr(holder, name)))
            setattr(holder, name, value)
        if self.work:
            self._undoable(partial(setattr, holder, "changed_by", None))
            holder.changed_by = self.work

    def roll_back(self, work: Work) -> None:
        for undo in reversed(work.undo):
            undo()

    def keep(self, work: Work) -> None:
        for waiting in work.made:
            waiting.held = None
        for reader in self.readers.values():
            for holder in [reader, *reader.members.values()]:
                if holder.changed_by is work:
                    holder.changed_by = None

    # Receiving

    def empty(self, reader: Reader) -> None:
        """Check that nothing is ready, because a call returned nothing (P1, P6)."""
        assert not reader.left, f"{reader.name}: {reader.left} was open but was not returned"
        ready = self.between(reader.at, self.newest, reader)
        assert not ready, f"{reader.name}: {ready} is ready but was not returned"
        assert self.newest.id >= reader.at.id
        if reader.at is not self.newest:
            self.put(reader, at=self.newest)

    def close_empty_window(self, holder: Holder) -> None:
        if holder.left == []:
            if isinstance(holder, Reader):
                self.put(holder, at=holder.end, end=None)
            self.put(holder, left=None, batch=None)

    def open_window(self, reader: Reader, ticks: tuple[int, int], merged: bool) -> None:
        """Open a batch between these two ticks; it must not skip entries before the first one."""
        before, end = self.by_id[ticks[0]], self.by_id[ticks[1]]
        passed = self.between(reader.at, before, reader)
        assert before.id >= reader.at.id, f"{reader.name} moved back"
        assert not passed, f"{reader.name}: {passed} was skipped"
        assert end.id <= self.newest.id
        if not merged and not (self.work and self.work.isolated):
            assert end in self.next_of(before), "more than one window"
        self.put(reader, at=before, end=end, left=self.between(before, end, reader))

    def took(
        self, holder: Holder, pool: list[Entry], rows: list[Message], limit: int
    ) -> list[Entry]:
        """Check that these rows of the pool were returned: as many as `limit` allows."""
        taken = match(pool, rows)
        assert len(rows) == min(limit, len(pool)), (
            f"{holder.name}: {len(rows)} of {pool} returned, limit {limit}"
        )
        (batch_id,) = {row.batch_id for row in rows}
        self.opened(holder, batch_id, taken)
        return taken

    def took_all(
        self, holder: Holder, pool: list[Entry], rows: list[Message], batch_id: int
    ) -> None:
        """Check that the batch is the whole pool."""
        taken = match(pool, rows)
        assert len(taken) == len(pool), f"{holder.name}: {rows} of {pool}"
        self.opened(holder, batch_id, taken)

    def opened(self, holder: Holder, batch_id: int, entries: list[Entry]) -> None:
        """Check the id of a returned batch: the open one's, or a new one for new entries (P9)."""
        batch = holder.batch
        if batch and set(batch.entries) == set(entries):
            assert batch_id == batch.id, "the open batch was returned with another id"
            return
        assert batch_id not in self.known_batches, f"batch id {batch_id} was used before"
        self.known_batches.append(batch_id)
        self.put(holder, batch=Batch(batch_id, entries, self.clock))

    def take_over(self, member: Member, dead: Member) -> None:
        self.put(member, left=dead.left)
        self.put(dead, left=None, batch=None)

    def give_piece(self, reader: Reader, member: Member, entries: list[Entry]) -> None:
        assert reader.left is not None
        rest = [entry for entry in reader.left if entry not in entries]
        if rest:
            self.put(reader, left=rest)
        else:
            self.put(reader, at=reader.end, end=None, left=None)
        self.put(member, left=entries)

    # Finishing

    def find(self, batch_id: int) -> tuple[Reader, Holder] | None:
        for reader in self.readers.values():
            for holder in [reader, *reader.members.values()]:
                if holder.batch and holder.batch.id == batch_id:
                    return reader, holder
        return None

    def ack(self, reader: Reader, holder: Holder, done: list[Entry] | None = None) -> None:
        """Finish the batch, or only these entries so that the rest stays in place."""
        assert holder.batch is not None
        assert holder.left is not None
        covered = holder.batch.entries if done is None else done
        for entry in covered:
            if entry not in reader.nacked:
                self._finish(reader, entry.event.id)
        rest = [entry for entry in holder.left if entry not in covered]
        if rest:
            self.put(holder, left=rest, batch=None)
            return
        if isinstance(holder, Reader):
            self.put(holder, at=holder.end, end=None)
        self.put(holder, left=None, batch=None)

    def _finish(self, reader: Reader, event_id: int) -> None:
        reader.finished[event_id] += 1
        self._undoable(partial(reader.finished.subtract, [event_id]))

    # Retries and dead letters

    def nack(self, reader: Reader, entry: Entry, due: bool) -> None:
        max_retries = self.max_retries
        if self.work and self.work.isolated:
            max_retries = self.work.max_retries
        if entry.retry < max_retries:
            self.wait(reader, entry, entry.retry + 1, due)
        else:
            self.bury(reader, entry)
        self._mark(reader, entry)

    def _mark(self, reader: Reader, entry: Entry) -> None:
        if entry not in reader.nacked:
            reader.nacked.add(entry)
            self._undoable(partial(reader.nacked.discard, entry))

    def wait(self, reader: Reader, entry: Entry, retry: int, due: bool) -> bool:
        event_id = entry.event.id
        if event_id in reader.waiting:
            return False
        if entry in reader.nacked:
            reader.again.add(event_id)  # already put back, so it is delivered twice
        waiting = Waiting(entry.event, retry, due, held=self.work)
        reader.waiting[event_id] = waiting
        self._undoable(partial(reader.waiting.pop, event_id, None))
        if self.work:
            self.work.made.append(waiting)
        self._mark(reader, entry)
        return True

    def bury(self, reader: Reader, entry: Entry) -> None:
        key = (reader.name, entry.event.id)
        if key not in self.dead:
            self.dead[key] = entry.retry
            self._undoable(partial(self.dead.pop, key, None))
        if entry.event.id not in reader.buried:
            reader.buried.add(entry.event.id)
            self._undoable(partial(reader.buried.discard, entry.event.id))

    def due(self) -> list[PutBack]:
        return [
            PutBack(reader, event_id, waiting)
            for reader in self.readers.values()
            for event_id, waiting in reader.waiting.items()
            if waiting.due and waiting.held is None
        ]

    # The end

    def settle_accounts(self) -> None:
        """Check, after draining, that each consumer got what it was owed, once (P1, P2, P3)."""
        for reader in self.readers.values():
            owed = {
                e.event.id for e in self.log if e.owner is None and e.commit > reader.since.sees
            }
            got = {event_id for event_id, times in reader.finished.items() if times}
            lost = owed - got - reader.buried
            assert not lost, f"{reader.name} never got {sorted(lost)}"
            assert not reader.waiting, f"{reader.name} still waits for {reader.waiting}"
            if not reader.sought:
                assert not got - owed, (
                    f"{reader.name} got {sorted(got - owed)}, which it was not owed"
                )
                twice = [e for e in got - reader.again if reader.finished[e] != 1]
                assert not twice, f"{reader.name} finished {twice} more than once"
                both = (got & reader.buried) - reader.again
                assert not both, f"{reader.name} finished {both}, which are dead letters"


def match(pool: list[Entry], rows: list[Message]) -> list[Entry]:
    """Return the entries of these rows. Fail on entries outside the pool or out of order (P4)."""
    ids = [row.msg_id for row in rows]
    assert ids == sorted(ids), f"not ordered by ev_id: {ids}"
    by_key: defaultdict[RowKey, list[Entry]] = defaultdict(list)
    for entry in pool:
        by_key[entry.key].append(entry)
    taken = []
    for row in rows:
        entries = by_key.get((row.msg_id, row.retry_count))
        assert entries, f"{row.msg_id}/{row.retry_count} was returned, expected one of {pool}"
        entry = entries.pop(0)
        event = entry.event
        event.created_at = event.created_at or row.created_at
        received = (row.type, row.payload, tuple(row[6:]), row.created_at)
        assert received == (event.type, event.payload, event.extras, event.created_at)
        taken.append(entry)
    if len({entry.key for entry in pool}) == len(pool):
        rest: dict[int, int] = {}
        for entry in pool:
            if entry not in taken:
                rest[entry.transaction] = min(
                    entry.event.id, rest.get(entry.transaction, entry.event.id)
                )
        for entry in taken:
            first = rest.get(entry.transaction, entry.event.id)
            assert entry.event.id <= first, (
                f"{entry} was returned before {first} of the same transaction"
            )
    return taken
