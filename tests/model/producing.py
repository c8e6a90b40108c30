"""Producers: transactions of every kind that stay open during other steps."""

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.fix_engine import Connection
from tests.model.base import SERIALIZATION_FAILURE, Base, seldom
from tests.model.parts import Entry, Event, Transaction
from tests.model.world import PRODUCERS

READ_COMMITTED = "read committed"

isolations = st.sampled_from([READ_COMMITTED, "repeatable read", "serializable"])
producers = st.integers(0, PRODUCERS - 1)

# The ways to send an event: the call, and the expected type and payload.
SINGLE = {
    "text": ("pgque.send(%(queue)s, %(text)s::text)", "default", "text"),
    "jsonb": ("pgque.send(%(queue)s, %(json)s::jsonb)", "default", "json"),
    "typed text": ("pgque.send(%(queue)s, 'typed', %(text)s::text)", "typed", "text"),
    "typed jsonb": ("pgque.send(%(queue)s, 'typed', %(json)s::jsonb)", "typed", "json"),
    "null": ("pgque.send(%(queue)s, null::text)", "default", None),
    "event": ("pgque.insert_event(%(queue)s, 'event', %(text)s)", "event", "text"),
    "extras": (
        "pgque.insert_event(%(queue)s, null, %(text)s, 'one', %(json)s, null, '')",
        None,
        "text",
    ),
}
BATCH = {
    "texts": ("pgque.send_batch(%(queue)s, %(text)s::text[])", "default", "text"),
    "jsonbs": ("pgque.send_batch(%(queue)s, %(json)s::text[]::jsonb[])", "default", "json"),
    "typed texts": ("pgque.send_batch(%(queue)s, 'many', %(text)s::text[])", "many", "text"),
    "typed jsonbs": (
        "pgque.send_batch(%(queue)s, 'many', %(json)s::text[]::jsonb[])",
        "many",
        "json",
    ),
}


class Producing(Base):
    def producer(self, number: int) -> Connection:
        return self.world.producers[number]

    def one_open(self, number: int) -> int:
        """Return a producer whose transaction is open."""
        return sorted(self.open)[number % len(self.open)]

    def end(self, number: int, *, committed: bool) -> None:
        transaction = self.open.pop(number)
        if committed:
            self.model.commit(transaction.items, transaction.number)
        else:
            transaction.back_to(0)

    @rule(
        number=producers,
        isolation=isolations | st.just(READ_COMMITTED),
        first=st.sampled_from(["nothing", "snapshot", "send", "send"]),
    )
    def begin(self, number: int, isolation: str, first: str) -> None:
        if number in self.open:
            return
        self.producer(number).execute(f"begin isolation level {isolation}".encode())
        transaction = Transaction(next(self.numbers), isolation)
        self.open[number] = transaction
        if first == "snapshot":
            self.producer(number).execute("select 1")
            transaction.refuses_inserts = self.is_on("disable_insert")
        elif first == "send":
            self.send_one(number, "text")

    @rule(number=producers, form=st.sampled_from(sorted(SINGLE)))
    def send_one(self, number: int, form: str) -> None:
        call, type_name, payload = SINGLE[form]
        made = self.make(1, type_name, payload)
        if form == "extras":
            made[0].extras = ("one", f'{{"n":{self.last}}}', None, "")
        self.send(number, call, made, {"text": f"p{self.last}", "json": f'{{"n":{self.last}}}'})

    @rule(
        number=producers, form=st.sampled_from(sorted(BATCH)), count=st.sampled_from([0, 1, 2, 5])
    )
    def send_many(self, number: int, form: str, count: int) -> None:
        call, type_name, payload = BATCH[form]
        made = self.make(count, type_name, payload)
        payloads = [event.payload for event in made]
        self.send(number, call, made, {"text": payloads, "json": payloads})

    def make(self, count: int, type_name: str | None, payload: str | None) -> list[Event]:
        made = []
        for _ in range(count):
            self.last = next(self.numbers)
            forms = {"text": f"p{self.last}", "json": f'{{"n": {self.last}}}'}
            made.append(Event(0, type_name, forms[payload] if payload else None))
        return made

    def send(
        self, number: int, call: str, made: list[Event], parameters: dict[str, object]
    ) -> None:
        conn = self.producer(number)
        transaction = self.open.get(number)
        refused = self.is_on("disable_insert")
        if transaction and transaction.isolation != READ_COMMITTED:
            if transaction.refuses_inserts is None:
                transaction.refuses_inserts = refused
            refused = transaction.refuses_inserts
        refused = refused and bool(made)
        if refused and transaction:
            conn.execute("savepoint guard")
        query = f"select {call}".encode()
        state, result = self.world.attempt(
            lambda conn: conn.execute(query, {"queue": self.queue, **parameters}).fetchone()[0],
            conn,
        )
        if refused:
            assert state == "PQ006"
            if transaction:
                conn.execute("rollback to guard")
            self.set_back("disable_insert")
            return
        if state == SERIALIZATION_FAILURE:
            self.lose(number)
            return
        assert state is None, self.world.refusal
        ids = result if isinstance(result, list) else [result]
        assert len(ids) == len(made)
        own = transaction or Transaction(next(self.numbers), READ_COMMITTED)
        earlier = [item.event.id for item in own.items if isinstance(item, Entry)]
        assert [*earlier, *ids] == sorted({*earlier, *ids}), "ids do not increase in a transaction"
        used = {entry.event.id for entry in self.model.log}
        assert not used & set(ids), f"event ids {used & set(ids)} were used before"
        for event, event.id in zip(made, ids, strict=True):
            own.items.append(Entry(event, own.number))
        if not transaction:
            self.model.commit(own.items, own.number)

    def lose(self, number: int) -> None:
        """Return whether the call succeeded. A serialization failure ends the transaction."""
        assert self.open[number].isolation == "serializable"
        self.producer(number).execute("rollback")
        self.end(number, committed=False)

    @rule(number=producers)
    def savepoint(self, number: int) -> None:
        if not self.open:
            return
        number = self.one_open(number)
        transaction = self.open[number]
        self.producer(number).execute(f"savepoint s{len(transaction.savepoints)}".encode())
        transaction.savepoints.append(len(transaction.items))

    @rule(number=producers, depth=st.integers(0, 2), release=st.booleans())
    def end_savepoint(self, number: int, depth: int, release: bool) -> None:
        if not any(t.savepoints for t in self.open.values()):
            return
        number = self.one_open(number)
        transaction = self.open[number]
        if not transaction.savepoints:
            return
        depth %= len(transaction.savepoints)
        if release:
            self.producer(number).execute(f"release s{depth}".encode())
            del transaction.savepoints[depth:]
        else:
            self.producer(number).execute(f"rollback to s{depth}".encode())
            transaction.back_to(transaction.savepoints[depth])
            del transaction.savepoints[depth + 1 :]

    @rule(number=producers)
    def commit(self, number: int) -> None:
        if not self.open:
            return
        number = self.one_open(number)
        state, _ = self.world.attempt(lambda c: c.execute("commit"), self.producer(number))
        assert state in (None, SERIALIZATION_FAILURE)
        self.end(number, committed=state is None)

    @seldom("end", when=lambda self: self.open, number=producers)
    def roll_back(self, number: int) -> None:
        number = self.one_open(number)
        self.producer(number).execute("rollback")
        self.end(number, committed=False)

    @seldom("end", when=lambda self: self.open and len(self.prepared) < 2, number=producers)
    def prepare(self, number: int) -> None:
        number = self.one_open(number)
        if self.open[number].has_notified:
            return  # a tick notifies, and PREPARE TRANSACTION refuses that
        conn = self.producer(number)
        gid = f"{conn.info.dbname} {self.queue} {self.open[number].number}"
        state, _ = self.world.attempt(
            lambda conn: conn.execute(f"prepare transaction '{gid}'".encode()), conn
        )
        if state is None:
            self.prepared.append((gid, self.open.pop(number)))
        else:
            assert state == SERIALIZATION_FAILURE
            self.end(number, committed=False)

    @seldom(
        "end",
        when=lambda self: self.prepared,
        number=producers,
        which=st.integers(0, 1),
        committed=st.booleans(),
    )
    def finish_prepared(self, number: int, which: int, committed: bool) -> None:
        if number in self.open:
            return
        gid, transaction = self.prepared.pop(which % len(self.prepared))
        verb = "commit" if committed else "rollback"
        self.producer(number).execute(f"{verb} prepared '{gid}'".encode())
        if committed:
            self.model.commit(transaction.items, transaction.number)
        else:
            transaction.back_to(0)

    @seldom(
        "end",
        when=lambda self: self.open,
        number=producers,
        how=st.sampled_from(["close", "terminate"]),
    )
    def producer_dies(self, number: int, how: str) -> None:
        number = self.one_open(number)
        self.world.kill(self.world.producers, number, how)
        self.end(number, committed=False)
