"""Every call against every other, while the first one's transaction is open.

The first transaction makes its call and stays open. The second one's call succeeds, waits or is
refused. Then the first commits or rolls back. Afterwards the second must have a result that the
contract allows, and the state must equal that of a serial execution. The default is a sample of the
pairs; PGQUE_LONG=1 runs all of them.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.catalog import signatures
from tests.fix_engine import LONG, Connection, column
from tests.races import situation
from tests.races.asking import Answer, Asked
from tests.races.calls import CALLS, NOT_CALLED, Call, every_call, statement
from tests.recording import record

COMMITTED_ONE_OF = 1 if LONG else 41
ROLLED_BACK_ONE_OF = 1 if LONG else 5

NAMED = {
    "22023": "the external tick was taken",
    "PQ001": "the queue is gone",
    "PQ002": "the consumer is gone",
    "PQ003": "the batch is finished, or taken over",
    "PQ005": "the dead letter was replayed",
    "PQ006": "the queue refuses events now",
    "PQ007": "the consumer has become a group",
    "PQ008": "the name is a normal consumer now, perhaps with an open batch",
    "PQ009": "the queue has consumers now",
    "PQ010": "the ticker is paused now",
    "PQ012": "the consumer holds a batch now",
}
ACKS = {"ack(bigint)", "finish_batch(bigint)"}
BUSY = "55P03"
"""The error of receive_merged when receive would wait."""


@pytest.fixture(scope="module")
def observer(shared: Connection) -> Connection:
    shared.execute(situation.SCHEMA)
    shared.execute("set jit = off")  # JIT makes the queries a hundred times slower
    return shared


@pytest.fixture
def two(observer: Connection) -> Iterator[tuple[Asked, Asked]]:
    dsn = observer.info.dsn
    with (
        psycopg.connect(dsn, autocommit=True) as first,
        psycopg.connect(dsn, autocommit=True) as second,
    ):
        yield Asked(first, observer), Asked(second, observer)


class Pair:
    """One call in an open transaction, and a concurrent one."""

    def __init__(self, two: tuple[Asked, Asked], first: str, second: str, facts: Any) -> None:
        self.first, self.second = two
        self.names = {"first": first, "second": second}
        self.calls = {which: every_call()[name] for which, name in self.names.items()}
        self.facts = facts
        self.waited = False
        self.answers: dict[str, Answer] = {}

    def run(self, end: str) -> None:
        """Make both calls, and end both transactions with `end`: commit or rollback."""
        self.first.run("begin")
        self.answers["first"] = self.first.run(statement(*self.calls["first"], self.facts))
        self.second.run("begin")
        self.second.ask(statement(*self.calls["second"], self.facts))
        self.waited = not self.second.finishes(self.first)
        self.first.run(end)
        self.answers["second"] = self.second.answer()
        self.second.run(end)

    def __str__(self) -> str:
        return "; ".join(f"{name}: {self.answers.get(which)}" for which, name in self.names.items())

    @property
    def outcome(self) -> str:
        state = self.answers["second"].sqlstate
        if state:
            return f"refused {state}" if not self.waited else f"waited, refused {state}"
        return "waited" if self.waited else "went through"

    def done(self) -> list[Call]:
        """Return the calls that took effect: not refused ones or acks of a void batch."""
        return [
            self.calls[which][1]
            for which, answer in self.answers.items()
            if not answer.sqlstate and not (self.calls[which][0] in ACKS and answer.rows == [["0"]])
        ]

    def may_refuse(self) -> set[str]:
        merged = self.calls["second"][0].startswith("receive_merged")
        return {BUSY} if merged else set()


def check_delivery(conn: Connection, pair: Pair) -> None:
    """Check that all unacked events are delivered, and none twice."""
    queue = pair.facts["queue"]
    if not column(conn, "select 1 from pgque.queue where queue_name = 'q'"):
        return
    got = situation.drain(conn)
    sent = column(
        conn, f"select ev_id from pgque.event_{queue} where ev_owner is null and ev_id > 2"
    )
    assert got["w"] == sorted(sent), f"delivery to w after {pair}"
    dead = set(column(conn, "select ev_id from pgque.dead_letter"))
    finished = {call.finishes for call in pair.done()}
    repeated = {call.repeats for call in pair.done()}
    moved = {call.moves for call in pair.done()}
    for consumer, batch in {"c": "c", "i": "", "g": "a"}.items():
        if consumer in moved or consumer not in got:
            continue
        # `c` finished its earlier events 4 and 5 as dead letters; event 3 is a retry.
        known = set(sent) - ({4, 5} if consumer == "c" else set())
        batch_events = set(pair.facts[f"{batch}_events"]) if batch else set()
        acked = batch_events if batch and batch in finished else set()
        lost = known - set(got[consumer]) - acked - dead - {3}
        assert not lost, f"not delivered to {consumer} in {pair}: {lost}"
        twice = {n for n, count in Counter(got[consumer]).items() if count > 1}
        if batch in finished and batch not in repeated:
            twice |= set(got[consumer]) & acked
        assert batch in repeated or not twice, f"delivered twice to {consumer} in {pair}: {twice}"


def chosen(first: str, one_of: int) -> list[str]:
    """Return the calls to run against this one, a different sample for each."""
    names = list(every_call())
    offset = names.index(first) % one_of
    return names[offset::one_of]


def test_every_public_function_has_a_call(shared):
    assert set(signatures(shared)) == CALLS.keys() | NOT_CALLED.keys()


def test_every_call_succeeds_alone(observer, two):
    """Otherwise its results against other calls would mean nothing."""
    asked, _ = two
    facts = situation.prepare(observer)
    for name, (signature, call) in every_call().items():
        asked.run("begin")
        answer = asked.run(statement(signature, call, facts))
        asked.run("rollback")
        assert not answer.sqlstate, f"{name}: {answer}"
    assert situation.faults(observer) == []


@pytest.mark.parametrize("first", every_call())
def test_p5_p10_calls_against_a_transaction_that_commits(observer, two, first):
    began = time.monotonic()
    outcomes: Counter[str] = Counter()
    for second in chosen(first, COMMITTED_ONE_OF):
        pair = Pair(two, first, second, situation.prepare(observer))
        pair.run("commit")
        state = pair.answers["second"].sqlstate
        assert not state or state in NAMED or state in pair.may_refuse(), f"{pair}"
        assert situation.faults(observer) == [], f"{pair}"
        check_delivery(observer, pair)
        outcomes[pair.outcome] += 1
    note(observer, "the first commits", outcomes, began)


@pytest.mark.parametrize("first", every_call())
def test_p5_p10_calls_against_a_transaction_that_rolls_back(observer, two, first):
    """The second call then has the same result as without the first."""
    began = time.monotonic()
    outcomes: Counter[str] = Counter()
    facts = situation.prepare(observer)
    for second in chosen(first, ROLLED_BACK_ONE_OF):
        pair = Pair(two, first, second, facts)
        pair.run("rollback")
        state = pair.answers["second"].sqlstate
        assert not state or state in pair.may_refuse(), f"{pair}"
        outcomes[pair.outcome] += 1
    assert situation.faults(observer) == [], first
    check_delivery(observer, Pair(two, first, "version()", facts))
    note(observer, "the first rolls back", outcomes, began)


def note(conn: Connection, part: str, outcomes: Counter[str], began: float) -> None:
    record(
        conn,
        "races",
        f"pairs, {part}",
        "tests/races/test_pairs.py",
        {
            "pairs": outcomes.total(),
            "outcomes": dict(outcomes),
            "seconds": time.monotonic() - began,
        },
    )
