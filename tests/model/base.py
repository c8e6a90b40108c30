"""The base of all rules: the queue, its model, open transactions, and the invariants."""

import itertools
import sys
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import hypothesis.strategies as st
import psycopg
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fix_engine import Connection, Message, receive, receive_coop, tick, value
from tests.model.model import Model
from tests.model.parts import Holder, Reader, Tick, Transaction, Work
from tests.model.world import LOCK_NOT_AVAILABLE, World

SERIALIZATION_FAILURE = "40001"

F = TypeVar("F", bound=Callable[..., Any])
Condition = Callable[[Any], object]
CHOICES: dict[str, list[tuple[str, Condition | None, dict[str, Any]]]] = {}

GAVE_UP = "gave up"
"""A call timed out on a lock or lost to another transaction. It counts as not made."""

# The errors that tell a transaction with an old snapshot of changes to a consumer or a batch.
TOO_OLD = {SERIALIZATION_FAILURE, "PQ002", "PQ003", "PQ007", "PQ008", "PQ011", "PQ012"}

VISIBLE = """
    select
        (select json_agg(json_build_array(consumer_name, last_tick, current_batch))
            from pgque.get_consumer_info(%s)),
        (select json_agg(json_build_array(c.co_name, r.ev_id, r.ev_retry))
            from pgque.retry_queue r
            join pgque.subscription s on s.sub_id = r.ev_owner
            join pgque.consumer c on c.co_id = s.sub_consumer),
        (select json_agg(json_build_array(c.co_name, d.ev_id, d.ev_retry))
            from pgque.dlq_inspect(%s, 10000) d
            join pgque.consumer c on c.co_id = d.dl_consumer_id),
        (select last_tick_id from pgque.get_queue_info(%s))
"""


def seldom(kind: str, *, when: Condition | None = None, **arguments: Any) -> Callable[[F], F]:
    """Add a step to a rule that picks one of its steps, so that common rules stay frequent."""

    def decorate(method: F) -> F:
        CHOICES.setdefault(kind, []).append((method.__name__, when, arguments))
        return method

    return decorate


class Base(RuleBasedStateMachine):
    """One queue and the steps that all rules share."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.queue = self.world.new_queue()
        self.control = self.world.control
        self.model = Model(self.last_tick(self.control))
        self.open: dict[int, Transaction] = {}
        self.prepared: list[tuple[str, Transaction]] = []
        self.works: dict[int, Work] = {}
        self.numbers = itertools.count(1)
        self.forced_after = 0
        self.external_ticks = itertools.count(1)
        self.kept_all_history = True
        self.settings: dict[str, str | None] = {}
        self.configure("rotation_period", "1 microsecond")

    # Helpers

    def ask(self, query: str, *parameters: object) -> Any:
        return value(self.control, query, *parameters)

    def last_tick(self, conn: Connection) -> int:
        return value(conn, "select last_tick_id from pgque.get_queue_info(%s)", self.queue)

    def configure(self, param: str, setting: str | None) -> None:
        self.ask("select pgque.set_queue_config(%s, %s, %s)", self.queue, param, setting)
        self.settings[param] = setting
        if param == "max_retries":
            self.model.max_retries = 5 if setting is None else int(setting)

    def set_back(self, *params: str) -> None:
        """Reset settings that stop the ticker, once a step has seen their effect."""
        for param in params:
            if self.settings.get(param) and not self.works and not self.world.blocked:
                self.configure(param, None)

    def is_on(self, param: str) -> bool:
        return self.settings.get(param) == "true"

    def subscribe_at(self, name: str, at: Tick) -> Reader:
        reader = Reader(name, at=at, since=at)
        self.model.readers[name] = reader
        return reader

    # Rules that pick one of several rare steps

    def choose(self, kind: str, data: st.DataObject) -> None:
        name, when, arguments = data.draw(st.sampled_from(CHOICES[kind]), label=kind)
        drawn = data.draw(st.fixed_dictionaries(arguments), label=name)
        if when is None or when(self):
            getattr(self, name)(**drawn)

    @rule(data=st.data())
    def maintain(self, data: st.DataObject) -> None:
        self.choose("maintain", data)

    @rule(data=st.data())
    def manage(self, data: st.DataObject) -> None:
        self.choose("manage", data)

    @rule(data=st.data())
    def vary(self, data: st.DataObject) -> None:
        self.choose("vary", data)

    @rule(data=st.data())
    def end_otherwise(self, data: st.DataObject) -> None:
        self.choose("end", data)

    # Consumers' calls

    def consult(
        self, number: int, call: Callable[[Connection], Any], *readers: Reader | None
    ) -> tuple[str | None, Any]:
        """Make a consumer's call, in its transaction if one is open. An error rolls that back."""
        work = self.works.get(number)
        conn = self.world.workers[number]
        if work:
            work.touched.update(reader for reader in readers if reader)
            self.take_snapshot(work)
        state, result = self.world.attempt(call, conn)
        if state is None:
            return None, result
        if work:
            conn.execute("rollback")
            self.lose_work(number)
        if state == LOCK_NOT_AVAILABLE:
            held = any(w.held for r in readers if r for w in r.waiting.values())
            assert held or self.works, (
                f"waited for a lock that no session holds: {self.world.refusal}"
            )
            return GAVE_UP, None
        if work and work.isolated and state in TOO_OLD:
            return GAVE_UP, None
        return state, None

    def take_snapshot(self, work: Work) -> None:
        if work.isolated and work.newest is None:
            work.newest = self.model.ticks[-1]
            work.max_retries = self.model.max_retries
            work.started = self.model.clock

    def lose_work(self, number: int) -> None:
        work = self.works.pop(number)
        self.model.roll_back(work)

    def is_in_doubt(self, holder: Holder, number: int) -> bool:
        """Return whether another open transaction has changed the holder."""
        return holder.changed_by not in (None, self.works.get(number))

    def is_contended(self, reader: Reader, number: int) -> bool:
        return any(reader in work.touched for n, work in self.works.items() if n != number)

    # The invariants

    @invariant()
    def the_visible_state_matches_the_model(self) -> None:
        """P3, P9, P10: positions, open batches, retries and dead letters match the model."""
        self.world.steps += 1
        self.model.clock += 1
        self.settle_waiting_ticker()
        consumers, retries, dead, last_tick = (
            self.control.execute(VISIBLE.encode(), [self.queue] * 3).fetchone() or ((),) * 4
        )
        model = self.model
        assert last_tick == model.ticks[-1].id
        uncertain = {reader.name for work in self.works.values() for reader in work.touched}

        expected: dict[str, tuple[int | None, int | None]] = {}
        for reader in model.readers.values():
            for holder in [reader, *reader.members.values()]:
                at = reader.at.id if holder is reader else None
                name = reader.name if holder is reader else f"{reader.name}.{holder.name}"
                expected[name] = at, holder.batch.id if holder.batch else None
        found = {name: (at, batch) for name, at, batch in consumers or ()}
        assert found.keys() == expected.keys()
        for name, (at, batch) in expected.items():
            if name.split(".")[0] not in uncertain:
                assert found[name][1] == batch, f"open batch of {name}"
                assert at is None or found[name][0] == at, f"position of {name}"

        waiting = {
            (reader.name, event_id, w.retry)
            for reader in model.readers.values()
            for event_id, w in reader.waiting.items()
            if reader.name not in uncertain
        }
        assert {tuple(row) for row in retries or () if row[0] not in uncertain} == waiting
        letters = {(*key, n) for key, n in model.dead.items() if key[0] not in uncertain}
        assert {tuple(row) for row in dead or () if row[0] not in uncertain} == letters

    def settle_waiting_ticker(self) -> None:
        """Take note if the waiting ticker has ticked. Its tick sees everything committed now."""
        thread = self.world.blocked
        if thread is None or self.world.still_waits():
            return
        self.world.blocked = None
        try:
            tick_id = thread.outcome()
        except psycopg.Error as error:
            raise AssertionError(f"a waiting ticker failed: {error}") from error
        if tick_id is None:
            self.must_not_be_due(self.model.ticks[-1])
        else:
            self.model.ticked(Tick(tick_id, self.model.now))

    def must_not_be_due(self, last: Tick) -> None:
        """Check that no tick is due: new events are always ticked, or P1 would fail."""
        lag = self.settings.get("ticker_max_lag")
        if not lag and not self.is_on("ticker_paused") and not self.is_on("external_ticker"):
            assert not self.model.has_news(last), "no tick although there are new events"
            assert self.forced_after < last.id, "no tick although one was forced"

    # The end: finish all transactions, tick, drain, and compare what each consumer got

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.drain()
        finally:
            self.world.clear(self.queue)

    def drain(self) -> None:
        for number in list(self.works):
            self.world.workers[number].execute("rollback")
            self.lose_work(number)
        for number, transaction in self.open.items():
            self.world.producers[number].execute("commit")
            self.model.commit(transaction.items, transaction.number)
            self.settle_waiting_ticker()
        for gid, transaction in self.prepared:
            self.control.execute(f"commit prepared '{gid}'".encode())
            self.model.commit(transaction.items, transaction.number)
            self.settle_waiting_ticker()
        for param in ("ticker_paused", "external_ticker", "disable_insert", "ticker_max_lag"):
            self.configure(param, None)
        self.take_all()
        while any(reader.waiting for reader in self.model.readers.values()):
            # Make all retries due: the API cannot advance time.
            self.control.execute("update pgque.retry_queue set ev_retry_after = now()")
            for reader in self.model.readers.values():
                for waiting in reader.waiting.values():
                    waiting.due = True
            due = self.model.due()
            assert self.ask("select pgque.maint_retry_events()") == len(due)
            self.model.commit(due, next(self.numbers))
            self.take_all()
        self.the_visible_state_matches_the_model()
        self.model.settle_accounts()

    def take_all(self) -> None:
        tick_id = tick(self.control, self.queue)
        if tick_id is None:
            self.must_not_be_due(self.model.ticks[-1])
        else:
            self.model.ticked(Tick(tick_id, self.model.now))
        for reader in self.model.readers.values():
            while self.take_next(reader):
                pass

    def take_next(self, reader: Reader) -> bool:
        if reader.members:
            member = next(iter(reader.members))
            rows = receive_coop(self.control, self.queue, reader.name, member, 7, "0")
            self.check_shared(reader, member, rows, self.span(self.control, rows), 7, True, False)
            holder: Holder = reader.members[member]
        else:
            rows = receive(self.control, self.queue, reader.name, 7)
            self.check_received(reader, rows, self.span(self.control, rows), 7, False)
            holder = reader
        if not rows:
            return False
        assert self.ask("select pgque.ack(%s)", rows[0].batch_id) == 1
        self.model.ack(reader, holder)
        return True

    def span(self, conn: Connection, rows: list[Message]) -> tuple[int, int] | None:
        """Return the two ticks that bound a batch."""
        return self.span_of(conn, rows[0].batch_id) if rows else None

    def span_of(self, conn: Connection, batch_id: int) -> tuple[int, int]:
        query = b"select prev_tick_id, tick_id from pgque.get_batch_info(%s)"
        row = conn.execute(query, [batch_id]).fetchone()
        assert row is not None
        return row[0], row[1]

    # Checks of returned batches against the model

    def check_received(
        self,
        reader: Reader,
        rows: list[Message],
        span: tuple[int, int] | None,
        limit: int,
        merged: bool,
    ) -> None:
        model = self.model
        model.close_empty_window(reader)
        if span is None:
            model.empty(reader)
            return
        if reader.left is None:
            model.open_window(reader, span, merged)
        assert reader.left is not None
        assert reader.end is not None
        assert span == (reader.at.id, reader.end.id)
        model.took(reader, reader.left, rows, limit)

    def check_shared(
        self,
        reader: Reader,
        member: str,
        rows: list[Message],
        span: tuple[int, int] | None,
        limit: int,
        takes_over: bool,
        merged: bool,
        contended: bool = False,
    ) -> None:
        model = self.model
        me = reader.members[member]
        model.close_empty_window(me)
        siblings = [m for m in reader.members.values() if m is not me and m.left is not None]
        if takes_over and me.left is None and siblings:
            keys = {(row.msg_id, row.retry_count) for row in rows}
            for sibling in siblings if contended else siblings[:1]:
                pieces = {entry.key for entry in sibling.left or ()}
                if (keys and keys <= pieces) or not contended:
                    assert sibling.changed_by in (None, model.work)
                    model.take_over(me, sibling)
                    break
        if me.left is not None:
            model.took(me, me.left, rows, limit)
        elif span is None:
            model.empty(reader)
        else:
            if reader.left is None:
                model.open_window(reader, span, merged)
            assert reader.left is not None
            taken = model.took(me, reader.left, rows, limit)
            model.give_piece(reader, me, taken)
