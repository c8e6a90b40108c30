"""Consumers: calls in autocommit, or in transactions that stay open, roll back or are killed."""

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.fix_engine import Connection, Message, receive, value
from tests.model.base import GAVE_UP, Base, seldom
from tests.model.parts import Reader, Work
from tests.model.producing import isolations
from tests.model.world import LOCK_NOT_AVAILABLE, WORKERS

workers = st.integers(0, WORKERS - 1)
names = st.sampled_from(["c", "c", "d", "g"])
limits = st.sampled_from([1, 2, 3, 5, 100])
recent = st.integers(0, 7)


def whole_batch(conn: Connection, batch_id: int) -> list[Message]:
    """Return get_batch_events as messages."""
    rows = conn.execute(
        b"select ev_id, ev_type, ev_data, ev_retry, ev_time, ev_extra1, ev_extra2, ev_extra3, "
        b"ev_extra4 from pgque.get_batch_events(%s)",
        [batch_id],
    )
    return [Message(row[0], batch_id, *row[1:]) for row in rows]


class Consuming(Base):
    # Transactions

    def one_at_work(self, number: int) -> int:
        """Return a worker whose transaction is open."""
        return sorted(self.works)[number % len(self.works)]

    @rule(number=workers, isolation=isolations, snapshot=st.sampled_from([True, True, False]))
    def begin_work(self, number: int, isolation: str, snapshot: bool) -> None:
        if number in self.works:
            return
        conn = self.world.workers[number]
        conn.execute(f"begin isolation level {isolation}".encode())
        isolated = isolation != "read committed"
        work = Work(isolated, self.model.clock, None, self.model.max_retries)
        self.works[number] = work
        if snapshot:
            conn.execute("select 1")
            self.take_snapshot(work)

    @rule(number=workers)
    def commit_work(self, number: int) -> None:
        if not self.works:
            return
        number = self.one_at_work(number)
        state, _ = self.world.attempt(lambda c: c.execute("commit"), self.world.workers[number])
        if state:
            assert state == "40001", self.world.refusal
            self.lose_work(number)
        else:
            self.model.keep(self.works.pop(number))

    @seldom("end", when=lambda self: self.works, number=workers)
    def roll_back_work(self, number: int) -> None:
        number = self.one_at_work(number)
        self.world.workers[number].execute("rollback")
        self.lose_work(number)

    @seldom(
        "end",
        when=lambda self: self.works,
        number=workers,
        how=st.sampled_from(["close", "terminate"]),
    )
    def worker_dies(self, number: int, how: str) -> None:
        """Kill a worker's connection. Others continue with the committed state."""
        number = self.one_at_work(number)
        self.world.kill(self.world.workers, number, how)
        self.lose_work(number)

    # Subscriptions

    def alone(self, query: str, *parameters: object) -> tuple[str | None, int | None]:
        """Make a call in autocommit. It may time out on a consumer's or a producer's lock."""
        state, result = self.world.attempt(
            lambda conn: value(conn, query, *parameters), self.control
        )
        if state == LOCK_NOT_AVAILABLE:
            held = any(w.held for r in self.model.readers.values() for w in r.waiting.values())
            assert held or self.works
            return GAVE_UP, None
        return state, result

    @seldom("manage", name=names, older_name=st.booleans())
    def subscribe(self, name: str, older_name: bool) -> None:
        call = "register_consumer" if older_name else "subscribe"
        state, added = self.alone(f"select pgque.{call}(%s, %s)", self.queue, name)
        if state is None:
            assert added == (name not in self.model.readers)
            if added:
                self.subscribe_at(name, self.model.ticks[-1])
        else:
            assert state == GAVE_UP

    @seldom("manage", name=names, back=recent)
    def register_at(self, name: str, back: int) -> None:
        at = self.model.ticks[-1 - back % len(self.model.ticks)]
        call = "select pgque.register_consumer_at(%s, %s, %s)"
        state, added = self.alone(call, self.queue, name, at.id)
        if state is None:
            assert added == (name not in self.model.readers)
            if added:
                self.subscribe_at(name, at)
        elif state == "PQ011":
            assert not self.kept_all_history
        else:
            assert state == GAVE_UP

    @seldom("manage", name=names, older_name=st.booleans())
    def unsubscribe(self, name: str, older_name: bool) -> None:
        call = "unregister_consumer" if older_name else "unsubscribe"
        state, removed = self.alone(f"select pgque.{call}(%s, %s)", self.queue, name)
        reader = self.model.readers.get(name)
        if state == "PQ007":
            assert reader
            assert reader.members
        elif state is None:
            assert removed == (reader is not None)
            self.model.readers.pop(name, None)
        else:
            assert state == GAVE_UP

    @seldom("manage", number=workers, name=names, back=recent, by_time=st.booleans())
    def seek(self, number: int, name: str, back: int, by_time: bool) -> None:
        model = self.model
        reader = model.readers.get(name)
        at = model.ticks[-1 - back % len(model.ticks)]
        if by_time:
            call = (
                "select pgque.seek(%s, %s, (select tick_time from pgque.tick join pgque.queue "
                "on queue_id = tick_queue where queue_name = %s and tick_id = %s limit 1))"
            )
            parameters = [self.queue, name, self.queue, at.id]
        else:
            call = "select pgque.seek(%s, %s, %s)"
            parameters = [self.queue, name, at.id]
        state, moved = self.consult(number, lambda conn: value(conn, call, *parameters), reader)
        holds = reader and (
            reader.batch or any(m.left is not None for m in reader.members.values())
        )
        if state == GAVE_UP:
            return
        if reader is None:
            assert state == "PQ002"
        elif holds:
            assert state == "PQ012"
        elif state == "PQ011":
            assert not self.kept_all_history
        else:
            assert state is None, self.world.refusal
            if not by_time:
                assert moved == at.id
            at = model.by_id[moved]
            with model.inside(self.works.get(number)):
                model.put(reader, at=at, end=None, left=None, since=at, sought=True)
                model.put(reader, finished=type(reader.finished)(), nacked=set())

    # Receiving

    def refusal(self, reader: Reader | None) -> str | None:
        if reader is None:
            return "PQ002"
        return "PQ007" if reader.members else None

    @rule(number=workers, name=names, limit=limits, merged=st.booleans())
    def receive(self, number: int, name: str, limit: int, merged: bool) -> None:
        self.received(number, name, limit, merged)

    def received(self, number: int, name: str, limit: int, merged: bool) -> list[Message]:
        reader = self.model.readers.get(name)

        def call(conn: Connection) -> tuple[list[Message], tuple[int, int] | None]:
            rows = receive(conn, self.queue, name, limit, merged=merged)
            return rows, self.span(conn, rows)

        state, result = self.consult(number, call, reader)
        if state == GAVE_UP:
            return []
        assert state == self.refusal(reader)
        if state or reader is None:
            return []
        rows, span = result
        if self.is_in_doubt(reader, number):
            assert not rows
            return []
        with self.model.inside(self.works.get(number)):
            self.check_received(reader, rows, span, limit, merged)
        return rows

    @seldom("vary", number=workers, name=names)
    def next_batch(self, number: int, name: str) -> None:
        """Use PgQ's API: a batch is a whole window, empty or not."""
        reader = self.model.readers.get(name)

        def call(conn: Connection) -> tuple[int | None, list[Message], tuple[int, int]]:
            batch_id = value(conn, "select pgque.next_batch(%s, %s)", self.queue, name)
            if batch_id is None:
                return None, [], (0, 0)
            return batch_id, whole_batch(conn, batch_id), self.span_of(conn, batch_id)

        state, result = self.consult(number, call, reader)
        if state == GAVE_UP:
            return
        assert state == self.refusal(reader)
        if state or reader is None:
            return
        batch_id, rows, span = result
        if self.is_in_doubt(reader, number):
            assert batch_id is None
            return
        with self.model.inside(self.works.get(number)):
            self.check_next_batch(reader, batch_id, rows, span)

    def check_next_batch(
        self, reader: Reader, batch_id: int | None, rows: list[Message], span: tuple[int, int]
    ) -> None:
        model = self.model
        if batch_id is None:
            assert not reader.batch
            assert reader.left is None
            assert reader.at is model.newest, "no batch although a window is ready"
            return
        if reader.left is None:
            at = reader.at
            model.open_window(reader, span, merged=False)
            assert reader.at is at, "a window was skipped"
        model.took_all(
            reader, reader.batch.entries if reader.batch else reader.left, rows, batch_id
        )
