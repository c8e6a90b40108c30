"""Consumers: ack, nack and similar calls, for batches that are open or not."""

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.fix_engine import Connection, Message, ack, column, nack, value
from tests.model.base import GAVE_UP, seldom
from tests.model.consuming import Consuming, limits, names, recent, workers
from tests.model.parts import Batch, Entry, Holder, Reader

first_limits = st.sampled_from([None, None, 1, 2, 100])
nacks = st.sampled_from(["none", "none", "one", "many"])
delays = st.sampled_from(["0", "0", "1 day"])

NO_MESSAGE = -1
Held = tuple[Reader, Holder, Batch]


class Finishing(Consuming):
    @rule(
        number=workers,
        name=names,
        limit=limits,
        merged=st.booleans(),
        first=first_limits,
        nacks=nacks,
    )
    def consume(
        self, number: int, name: str, limit: int, merged: bool, first: int | None, nacks: str
    ) -> None:
        """Do a consumer's usual work: receive, perhaps twice, sometimes nack, and ack."""
        if first:
            self.received(number, name, first, merged)
        rows = self.received(number, name, limit, merged)
        if rows:
            self.finish(number, rows[0].batch_id, nacks)

    def finish(self, number: int, batch_id: int, nacks: str) -> None:
        if nacks == "one":
            self.nack_in(number, batch_id, 1, "0")
        elif nacks == "many":
            self.nack_many_in(number, batch_id, {0, 2}, wrong=False)
        self.ack_by(number, batch_id, "ack")

    def held(self, batch_id: int, number: int) -> Held | None:
        """Return the holder of an open batch, as far as this worker can see."""
        found = self.model.find(batch_id)
        if found is None or self.is_in_doubt(found[1], number):
            return None
        assert found[1].batch
        return *found, found[1].batch

    def may_be_too_young(self, batch: Batch, number: int) -> bool:
        work = self.works.get(number)
        return bool(work and work.isolated and batch.born >= work.started)

    def recent_batch(self, which: int) -> int:
        known = self.model.known_batches
        return known[-1 - which % len(known)] if known else 0

    @rule(number=workers, which=recent, call=st.sampled_from(["ack", "finish_batch", "or_fail"]))
    def ack(self, number: int, which: int, call: str) -> None:
        """Ack an open batch, or an id that was finished, taken over or rolled back (P9)."""
        self.ack_by(number, self.recent_batch(which), call)

    def ack_by(self, number: int, batch_id: int, call: str) -> None:
        found = self.model.find(batch_id)
        held = self.held(batch_id, number)

        def finish(conn: Connection) -> int:
            if call == "ack":
                return ack(conn, batch_id)
            if call == "finish_batch":
                return value(conn, "select pgque.finish_batch(%s)", batch_id)
            value(conn, "select pgque.ack_or_fail(%s)", batch_id)
            return 1

        state, acked = self.consult(number, finish, *self.maybe_readers(found))
        if state == GAVE_UP:
            return
        if state is None and acked == 1:
            assert held, f"batch {batch_id} was acked although it is not open"
            with self.model.inside(self.works.get(number)):
                self.model.ack(held[0], held[1])
            return
        assert state == "PQ003" if call == "or_fail" else (state, acked) == (None, 0)
        assert not held or self.may_be_too_young(held[2], number)

    def maybe_readers(self, found: tuple[Reader, Holder] | None) -> list[Reader]:
        """Return the readers that a call may touch: all if the batch id is void."""
        return [found[0]] if found else list(self.model.readers.values())

    def entry_of(self, batch: Batch, event_id: int) -> Entry:
        """Return the newest attempt if a batch contains an event more than once."""
        entries = [entry for entry in batch.entries if entry.event.id == event_id]
        return max(entries, key=lambda entry: entry.retry)

    def expect(self, state: str | None, held: Held | None, number: int, wrong: bool) -> bool:
        """Return whether a nack or similar call succeeded; check the SQLSTATE if it failed.

        `held` is the state before the call, because an error undoes a batch that its transaction
        opened.
        """
        if state == GAVE_UP:
            return False
        if held is None or state == "PQ003":
            assert state == "PQ003", f"{state} for a batch that is not open"
            assert held is None or self.may_be_too_young(held[2], number)
            return False
        assert state == ("PQ004" if wrong else None), self.world.refusal
        return state is None

    @seldom("vary", number=workers, which=recent, index=recent, delay=delays)
    def nack(self, number: int, which: int, index: int, delay: str) -> None:
        self.nack_in(number, self.recent_batch(which), index, delay)

    def nack_in(self, number: int, batch_id: int, index: int, delay: str) -> None:
        event_id = self.pick(batch_id, number, index)
        message = Message(event_id, batch_id, None, None, 0, None, None, None, None, None)
        found = self.model.find(batch_id)
        held = self.held(batch_id, number)
        state, _ = self.consult(
            number, lambda conn: nack(conn, message, delay), *self.maybe_readers(found)
        )
        if self.expect(state, held, number, wrong=event_id == NO_MESSAGE) and held:
            with self.model.inside(self.works.get(number)):
                self.model.nack(held[0], self.entry_of(held[2], event_id), due=delay == "0")

    def pick(self, batch_id: int, number: int, index: int) -> int:
        """Return a message id of the batch, or NO_MESSAGE if it is empty or not open."""
        held = self.held(batch_id, number)
        if held is None or not held[2].entries:
            return NO_MESSAGE
        return held[2].entries[index % len(held[2].entries)].event.id

    @seldom(
        "vary", number=workers, which=recent, few=st.sets(recent, max_size=3), wrong=st.booleans()
    )
    def nack_many(self, number: int, which: int, few: set[int], wrong: bool) -> None:
        self.nack_many_in(number, self.recent_batch(which), few, wrong)

    def nack_many_in(self, number: int, batch_id: int, few: set[int], wrong: bool) -> None:
        """Nack several messages: all of them or none (P10)."""
        wanted = {self.pick(batch_id, number, index) for index in few}
        wanted = wanted | {NO_MESSAGE} if wrong else wanted - {NO_MESSAGE}
        found = self.model.find(batch_id)
        held = self.held(batch_id, number)
        state, count = self.consult(
            number,
            lambda conn: value(
                conn, "select pgque.nack_many(%s, %s::bigint[], '0')", batch_id, sorted(wanted)
            ),
            *self.maybe_readers(found),
        )
        if self.expect(state, held, number, wrong) and held:
            assert count == len(wanted)
            with self.model.inside(self.works.get(number)):
                for event_id in sorted(wanted):
                    self.model.nack(held[0], self.entry_of(held[2], event_id), due=True)

    @seldom("vary", number=workers, which=recent, index=recent)
    def event_retry(self, number: int, which: int, index: int) -> None:
        batch_id = self.recent_batch(which)
        event_id = self.pick(batch_id, number, index)
        found = self.model.find(batch_id)
        held = self.held(batch_id, number)
        state, count = self.consult(
            number,
            lambda conn: value(conn, "select pgque.event_retry(%s, %s, 0)", batch_id, event_id),
            *self.maybe_readers(found),
        )
        if self.expect(state, held, number, wrong=event_id == NO_MESSAGE) and held:
            with self.model.inside(self.works.get(number)):
                entry = self.entry_of(held[2], event_id)
                assert count == self.model.wait(held[0], entry, entry.retry + 1, due=True)

    @seldom("vary", number=workers, which=recent, few=st.sets(recent, max_size=4))
    def ack_part(self, number: int, which: int, few: set[int]) -> None:
        """Ack part of a batch. The rest is redelivered unchanged, in place or as a retry."""
        batch_id = self.recent_batch(which)
        held = self.held(batch_id, number)
        if held is None or any(reader is held[0] for reader in self.unclear_readers(number)):
            return
        reader, holder, batch = held
        ids = [entry.event.id for entry in batch.entries]
        if len(set(ids)) < len(ids) or reader.waiting.keys() & set(ids):
            return
        if any(entry in reader.nacked for entry in batch.entries):
            return
        done = {self.pick(batch_id, number, index) for index in few} - {NO_MESSAGE}
        waits = (
            "select r.ev_id from pgque.retry_queue r join pgque.subscription on sub_id = ev_owner "
            "join pgque.consumer on co_id = sub_consumer where co_name = %s"
        )

        def call(conn: Connection) -> tuple[int, list[int]]:
            call = "select pgque.ack_part(%s, %s::bigint[])"
            return value(conn, call, batch_id, sorted(done)), column(conn, waits, reader.name)

        state, result = self.consult(number, call, reader)
        if not self.expect(state, held, number, wrong=False):
            return
        count, waiting = result
        left = [entry for entry in batch.entries if entry.event.id not in done]
        assert count == len(left)
        with self.model.inside(self.works.get(number)):
            if left and left[0].event.id in waiting:
                for entry in left:
                    self.model.wait(reader, entry, entry.retry, due=True)
                self.model.ack(reader, holder)
            else:
                self.model.ack(reader, holder, [e for e in batch.entries if e not in left])

    def unclear_readers(self, number: int) -> set[Reader]:
        return {r for n, w in self.works.items() if n != number for r in w.touched}
