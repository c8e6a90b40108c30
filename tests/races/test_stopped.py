"""A call waits between two statements of the engine while another session works.

Each call first runs alone and reports the stops that it passes. Then it waits at one stop while its
partner does all its work, or until the partner needs a lock that the call holds. Then the call
continues. In every interleaving, each consumer handles each event once and reads its newest
position. The default is a sample; PGQUE_LONG=1 runs every stop of every call against every partner.
PGQUE_STOPS and PGQUE_TEST_SEED choose another sample.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.fix_engine import LONG, Connection, column, value
from tests.races import situation, stopping
from tests.races.asking import Answer, Asked
from tests.races.test_pairs import BUSY, NAMED
from tests.recording import record
from tests.running import PATIENCE

COMMITTED, ISOLATED = "read committed", "repeatable read"
TOO_OLD = "40001"
REFUSALS = {
    **NAMED,
    BUSY: "receive_merged does not wait",
    "25P02": "an earlier statement of the transaction failed",
    "PQ011": "the history that seek needs is gone",
}
SAMPLE = int(os.environ.get("PGQUE_STOPS", "6"))
"""Runs of each call in a sample."""
SEED = os.environ.get("PGQUE_TEST_SEED", "0")


@dataclass(frozen=True)
class Transaction:
    """Statements, with facts of the situation in braces."""

    isolation: str
    statements: tuple[str, ...]
    end: str = "commit"


def work(isolation: str, *statements: str) -> Transaction:
    return Transaction(isolation, statements)


MAKE_ROOM = "select setval('pgque.ledger_kept_bytes', 0)"
EMPTY_THE_OTHER = """
    do $$
    declare
        other text := 1 - pgque._ledger_child();
    begin
        while pg_relation_size('pgque.tick_' || other) > 0
            or pg_relation_size('pgque.cursor_' || other) > 0
        loop
            perform pgque.maint_rotate_ledger(); -- copies, then truncates
        end loop;
    end
    $$
"""
TURN = work(COMMITTED, MAKE_ROOM, "select pgque.maint_rotate_ledger()")
FINISH = "select races.finish('c', {c_batch})"
REFUSE = "select races.finish('c', {c_batch}, {c_event})"
FINISH_MEMBER = "select races.finish('g', {a_batch})"
NEXT = "select races.work('c', '')"
OTHER = "select races.work('i', '', 3)"
MEMBER = "select races.work('g', 'b', 3)"
TICK = work(COMMITTED, "select pgque.ticker('q')")
ROTATE = work(COMMITTED, "select pgque.maint_rotate_tables_step1('q')")

CALLS = {
    "ack": FINISH,
    "nack": REFUSE,
    "receive": OTHER,
    "receive, then ack": NEXT,
    "ack of a member": FINISH_MEMBER,
    "receive_coop with a takeover": MEMBER,
    "receive_coop of a new member": "select races.work('g', 'new', 2)",
    "touch_subconsumer": "select pgque.touch_subconsumer('q', 'g', 'a')",
    "send": "select races.send(1)",
    "subscribe": "select pgque.subscribe('q', 'new')",
    "register_subconsumer": "select pgque.register_subconsumer('q', 'g', 'new')",
    "seek": "select pgque.seek('q', 'w', {first_tick})",
    "unsubscribe": "select pgque.unsubscribe('q', 'i')",
    "unregister_subconsumer": "select pgque.unregister_subconsumer('q', 'g', 'a', 1)",
    "create_queue": "select pgque.create_queue('new')",
    "dlq_replay": "insert into races.sent select pgque.dlq_replay({dead})",
}
"""Calls that run at both isolation levels."""

SWITCH = "select pgque.maint_rotate_ledger()"
MAINTENANCE = {
    "ticker": "select pgque.ticker()",
    "ticker of one queue": "select pgque.ticker('q')",
    "force_next_tick": "select pgque.force_next_tick('q')",
    "maint_retry_events": "select pgque.maint_retry_events()",
    "rotation of the log": "select pgque.maint_rotate_tables_step1('q')",
    "rotation of the ledger": SWITCH,
    "drop_queue": "select pgque.drop_queue('q', true)",
    "grant_queue": "select pgque.grant_queue('pgque_test_races', 'q', 'consume')",
}

FIRST = (
    {
        f"{name}, {level}": Transaction(level, (text,))
        for name, text in CALLS.items()
        for level in (COMMITTED, ISOLATED)
    }
    | {name: work(COMMITTED, text) for name, text in MAINTENANCE.items()}
    | {
        "switch of the ledger": work(COMMITTED, SWITCH),
        "switch of the ledger, rolled back": Transaction(COMMITTED, (SWITCH,), "rollback"),
        "ack, rolled back": Transaction(ISOLATED, (FINISH,), "rollback"),
        "ticker, rolled back": Transaction(COMMITTED, ("select pgque.ticker()",), "rollback"),
    }
)

PARTNERS = {
    "acks, isolated, then not": (
        work(ISOLATED, FINISH),
        work(COMMITTED, NEXT),
        work(ISOLATED, OTHER),
        work(COMMITTED, OTHER),
    ),
    "acks, not isolated, then isolated": (
        work(COMMITTED, FINISH),
        work(ISOLATED, NEXT),
        work(COMMITTED, OTHER),
        work(ISOLATED, OTHER),
    ),
    "members": (
        work(ISOLATED, FINISH_MEMBER),
        work(COMMITTED, MEMBER),
        work(ISOLATED, MEMBER),
        work(COMMITTED, "select races.work('g', 'a', 2)"),
    ),
    "takeover": (work(COMMITTED, MEMBER), work(COMMITTED, MEMBER)),
    "rotations of the ledger": (TURN, TURN, TURN, work(COMMITTED, OTHER), TURN, TURN),
    "one rotation of the ledger": (TURN,),
    "rotations of the log": (
        work(COMMITTED, "select races.send(2)"),
        TICK,
        ROTATE,
        work(COMMITTED, "select races.send(2)"),
        TICK,
        ROTATE,
        ROTATE,
    ),
    "mixed work": (
        work(COMMITTED, "select races.send(2)"),
        TICK,
        work(ISOLATED, FINISH),
        work(COMMITTED, NEXT),
        TURN,
        work(COMMITTED, NEXT, OTHER),
        TURN,
        work(ISOLATED, NEXT),
    ),
    "sends": (
        work(ISOLATED, "select races.send(1)"),
        TICK,
        work(COMMITTED, "select races.send(1)", NEXT),
        TICK,
    ),
    "retries": (
        work(COMMITTED, REFUSE),
        work(COMMITTED, "select pgque.maint()"),
        TICK,
        work(COMMITTED, NEXT),
    ),
    "subscribing and unsubscribing": (
        work(COMMITTED, "select pgque.subscribe('q', 'new')"),
        TICK,
        work(COMMITTED, "select pgque.unsubscribe('q', 'new')"),
        work(COMMITTED, "select pgque.unregister_subconsumer('q', 'g', 'a', 1)"),
    ),
    "drop_queue": (work(COMMITTED, "select pgque.drop_queue('q', true)"),),
}


DEAD = {4, 5}
"""Dead letters of `c` in the prepared situation."""

SUBSCRIBED = """
    select co_name
    from pgque.subscriber
    join pgque.consumer on co_id = sub_consumer
    where co_name in ('c', 'i', 'w', 'g')
"""


@pytest.fixture(scope="module")
def observer(shared: Connection) -> Connection:
    stopping.insert_stops(shared)
    shared.execute("set jit = off")
    return shared


@pytest.fixture(scope="module")
def stage(observer: Connection) -> Iterator["Stage"]:
    dsn = observer.info.dsn
    with (
        psycopg.connect(dsn, autocommit=True) as first,
        psycopg.connect(dsn, autocommit=True) as second,
        psycopg.connect(dsn, autocommit=True) as holder,
    ):
        yield Stage(observer, *(Asked(conn, observer) for conn in (first, second, holder)))


class Stage:
    """A call that may be stopped, and its partner."""

    def __init__(self, observer: Connection, first: Asked, second: Asked, holder: Asked) -> None:
        self.observer = observer
        self.first, self.second, self.holder = first, second, holder
        self.notices: list[str] = []
        first.conn.add_notice_handler(lambda n: self.notices.append(str(n.message_primary)))

    def clean_up(self) -> None:
        """Release all locks after a failed race, so that the next one can run."""
        self.holder.run("select pg_advisory_unlock_all()")
        for asked in (self.first, self.second):
            asked.answer_if_any()
            asked.run("rollback")

    def prepare(self, name: str) -> None:
        self.clean_up()
        self.facts: dict[str, Any] = situation.prepare(self.observer)
        self.facts["first_tick"] = value(
            self.observer, "select queue_history_tick from pgque.queue where queue_name = 'q'"
        )
        self.observer.execute("call races.begin()")
        if name.startswith("switch"):
            self.observer.execute(EMPTY_THE_OTHER)
            self.observer.execute(MAKE_ROOM)
        self.log: list[str] = []

    def stops(self, name: str) -> list[str]:
        """Return the stops that the call passes when it runs alone."""
        self.prepare(name)
        self.notices.clear()
        stopping.stop_at(self.first.conn, None)
        self.first.run(f"begin isolation level {FIRST[name].isolation}")
        for statement in FIRST[name].statements:
            answer = self.first.run(statement.format(**self.facts))
            assert not answer.sqlstate, f"{name}: {answer}"
        self.first.run("rollback")
        return list(self.notices)

    def run_and_check(self, name: str, chosen: list[tuple[int, str]]) -> None:
        for number, partner in chosen:
            self.run(name, number, partner)
            self.check()

    def run(self, name: str, number: int, partner: str) -> None:
        """Stop the call there, and run the partner's transactions."""
        self.prepare(name)
        stopping.stop_at(self.first.conn, number)
        self.holder.run(stopping.HOLD)
        self.notices.clear()
        self.first.run(f"begin isolation level {FIRST[name].isolation}")
        (statement,) = FIRST[name].statements
        self.first.ask(statement.format(**self.facts))
        self.name = name
        self.stands, self.ended = not self.first.finishes(self.holder), False
        self.log.append(f"{name} stopped at {self.notices[-1:]}")
        for transaction in PARTNERS[partner]:
            self.transact(transaction)
        self.let_go()
        self.end()

    def transact(self, transaction: Transaction) -> None:
        """Run a transaction of the partner. The first call resumes if the partner waits for it."""
        self.second.run(f"begin isolation level {transaction.isolation}")
        for statement in transaction.statements:
            self.second.ask(statement.format(**self.facts))
            patience = time.monotonic() + PATIENCE
            while not self.second.is_done(0.002):
                if self.first.pid in self.second.waits_for():
                    self.let_go()
                if not self.stands and self.first.is_done():
                    self.end()
                assert time.monotonic() < patience, self.log
            self.note(statement, self.second.answer(), transaction.isolation)
        self.second.run("commit")

    def let_go(self) -> None:
        if self.stands:
            self.stands = False
            self.holder.run(stopping.RELEASE)

    def end(self) -> None:
        """Wait for the first call and end its transaction, unless that is done."""
        if not self.ended:
            self.ended = True
            self.note("the first", self.first.answer(), FIRST[self.name].isolation)
            self.first.run(FIRST[self.name].end)

    def note(self, what: str, answer: Answer, isolation: str) -> None:
        self.log.append(f"{what}: {answer}")
        assert answer.sqlstate in {"", *REFUSALS} or (
            answer.sqlstate == TOO_OLD and isolation == ISOLATED
        ), self.log

    def check(self) -> None:
        conn = self.observer
        assert situation.faults(conn) == [], self.log
        if not value(conn, "select exists (select from pgque.queue where queue_name = 'q')"):
            return
        for _ in range(2):
            conn.execute("call races.work_off()")
            conn.execute(MAKE_ROOM)
            conn.execute("select pgque.maint_rotate_ledger()")
            conn.execute(EMPTY_THE_OTHER)
        assert situation.faults(conn) == [], self.log
        sent = set(column(conn, "select ev_id from races.sent"))
        for name in column(conn, SUBSCRIBED):
            done = Counter(column(conn, "select ev_id from races.done where consumer = %s", name))
            lost = sent - done.keys() - (DEAD if name == "c" else set())
            twice = {event for event, count in done.items() if count > 1}
            assert (lost, twice) == (set(), set()), f"{name}: {self.log}"


def runs(name: str, stops: list[str]) -> list[tuple[int, str]]:
    """Return pairs of a stop and a partner: the first and the last pass of each place."""
    first = {place: n for n, place in reversed(list(enumerate(stops, 1)))}
    last = {place: n for n, place in enumerate(stops, 1)}
    numbers = sorted({*first.values(), *last.values()})
    every = [(n, partner) for n in numbers for partner in PARTNERS]
    if LONG:
        return every
    return random.Random(f"{SEED} {name}").sample(every, min(SAMPLE, len(every)))


def test_a_switch_of_the_ledger_without_its_lock_is_found(stage):
    """Without the lock an ack is lost, and these tests must find that."""
    name = "switch of the ledger"
    query = "select pg_get_functiondef('pgque.maint_rotate_ledger()'::regprocedure)"
    right = value(stage.observer, query)
    assert right.count("'share'") == 1
    stage.observer.execute(right.replace("'share'", "'access share'"))
    try:
        numbers = range(1, len(stage.stops(name)) + 1)
        with pytest.raises(AssertionError, match="a position that is not the newest"):
            stage.run_and_check(name, [(n, "acks, isolated, then not") for n in numbers])
    finally:
        stage.observer.execute(right)


@pytest.mark.parametrize("name", FIRST)
def test_p1_p3_p5_a_call_may_stop_anywhere(stage, name):
    began = time.monotonic()
    stops = stage.stops(name)
    chosen = runs(name, stops)
    stage.run_and_check(name, chosen)
    record(
        stage.observer,
        "races",
        "calls that stop",
        "tests/races/test_stopped.py",
        {"calls": 1, "stops": len(stops), "runs": len(chosen), "seconds": time.monotonic() - began},
    )
