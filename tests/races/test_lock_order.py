"""No call can deadlock with another one. The tests observe the order of the locks of each call.

Each lock is held in turn while every call runs. If a call waits, the test records the locks that it
holds by then. Two calls can deadlock only if each waits for a lock of the other and the locks that
they hold are compatible. The tests search all recorded waits for such pairs.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterable

import psycopg
import pytest

from tests.fix_engine import LONG, Connection
from tests.races import locks, situation
from tests.races.asking import Asked
from tests.races.calls import every_call, statement
from tests.races.locks import ROW_MODES, Lock, Point, Waiting
from tests.recording import record

GIVE_UP = {"maint()", "maint_rotate_tables_step1(text)", "maint_rotate_ledger()"}
"""Calls that wait only briefly for an exclusive table lock: see pgque._lock_briefly."""

ALIKE = (
    *("send(text,json", "send(text,text,", "send_batch(text,json", "send_batch(text,text"),
    *("logutriga", "sqltriga", "get_queue_info()", "get_consumer_info()", "version", "status"),
    *("start", "stop", "finish_batch", "force_tick", "subscribe_sub", "unsubscribe_sub"),
)

ORDER = (
    ("config",),
    ("queue ", "key queue "),
    ("subscriber c", "subscriber i", "subscriber w", "subscriber g."),
    ("subscriber g",),
    ("name ",),
    ("advisory 1885827446:",),
    ("pgque.event_",),
)
"""The order: queue, member, group, name, ticker, the log with its sequence: see sql/batch."""


def rank(lock: Lock) -> int | None:
    if re.fullmatch(r"pgque\.event_\d+_(id|force)_seq", lock.name):
        return len(ORDER)
    for number, prefixes in enumerate(ORDER):
        if lock.name.startswith(prefixes):
            return number
    return None


@pytest.fixture(scope="module")
def observer(shared: Connection) -> Connection:
    shared.execute(situation.SCHEMA)
    shared.execute("set jit = off")  # JIT makes the queries a hundred times slower
    shared.execute(locks.SCHEMA)
    return shared


@pytest.fixture(scope="module")
def waitings(observer: Connection) -> list[Waiting]:
    """Return every wait of every call, with the locks held at that point."""
    began = time.monotonic()
    dsn = observer.info.dsn
    found: list[Waiting] = []
    tried = 0
    calls = {name: call for name, call in every_call().items() if LONG or not alike(name)}
    with (
        psycopg.connect(dsn, autocommit=True) as first,
        psycopg.connect(dsn, autocommit=True) as second,
    ):
        holder, asked = Asked(first, observer), Asked(second, observer)
        for names_known in (False, True):
            facts = situation.prepare(observer)
            if names_known:
                observer.execute("call races.know_names()")
            observer.execute("call races.list_keys()")
            for point in chosen(locks.points(observer), names_known, facts["queue"]):
                for name, (signature, call) in calls.items():
                    tried += 1
                    text = statement(signature, call, facts)
                    found += beside(observer, holder, asked, name, text, point)
    record(
        observer,
        "races",
        "order of locks",
        "tests/races/test_lock_order.py",
        {
            "calls against a held lock": tried,
            "waits": len(found),
            "seconds": time.monotonic() - began,
        },
    )
    return with_upgrades(found)


def alike(name: str) -> bool:
    """Return whether a call is skipped by default: a variant, or one that takes no locks."""
    return name.startswith(ALIKE)


def chosen(points: list[Point], names_known: bool, queue: int) -> list[Point]:
    """Return the points to hold: by default without the tables of the other queue."""
    if names_known:
        return [point for point in points if "subscriber" in point.name]
    if LONG:
        return points
    other = re.compile(rf"pgque\.event_(?!{queue}(_|$))")
    return [point for point in points if not other.match(point.name)]


def beside(
    observer: Connection, holder: Asked, asked: Asked, name: str, text: str, point: Point
) -> list[Waiting]:
    """Make a call while the lock is held. Return its wait, if it waits."""
    found: list[Waiting] = []
    holder.run("begin")
    held = holder.run(point.statement)
    assert not held.sqlstate, f"{point}: {held}"
    asked.run("begin")
    asked.ask(text)
    while not asked.finishes(holder):
        waiting = locks.look(observer, asked, name, point)
        if waiting is not None and waiting.wanted.mode == "AccessExclusiveLock" and name in GIVE_UP:
            asked.answer()  # although the lock is still held
            break
        if waiting is not None:
            found = [waiting]
            break
    holder.run("rollback")
    asked.answer_if_any()
    asked.run("rollback")
    return found


def with_upgrades(waitings: list[Waiting]) -> list[Waiting]:
    """Add the weaker lock that a call already holds when it waits to upgrade a row lock."""
    weakest: dict[tuple[str, str], int] = {}
    for call, wanted, _ in waitings:
        if wanted.mode in ROW_MODES:
            key = (call, wanted.name)
            weakest[key] = min(weakest.get(key, 9), ROW_MODES.index(wanted.mode))
    result = []
    for call, wanted, held in waitings:
        if wanted.mode in ROW_MODES:
            before = weakest[call, wanted.name]
            if before < ROW_MODES.index(wanted.mode):
                held |= {Lock(wanted.name, ROW_MODES[before])}
        result.append(Waiting(call, wanted, held))
    return result


def together(one: Waiting, two: Waiting) -> bool:
    """Return whether two calls can reach these points at the same time."""
    return not any(a.shuts_out(b) for a in one.held for b in two.held)


def waits_for(one: Waiting, two: Waiting) -> bool:
    return any(lock.shuts_out(one.wanted) for lock in two.held)


def rings(waitings: Iterable[Waiting]) -> list[tuple[Waiting, ...]]:
    """Find cycles of two or three calls, each waiting for a lock that the next one holds."""
    distinct = {(w.wanted, w.held): w for w in waitings}
    states = list(distinct.values())
    after = {
        n: [m for m, two in enumerate(states) if waits_for(one, two) and together(one, two)]
        for n, one in enumerate(states)
    }
    found = []
    for one in after:
        for two in after[one]:
            if two >= one and one in after[two]:
                found.append((states[one], states[two]))
            found += [
                (states[one], states[two], states[three])
                for three in after[two]
                if two > one < three != two
                and one in after[three]
                and together(states[one], states[three])
            ]
    return found


def test_p5_no_two_or_three_calls_can_deadlock(waitings):
    assert len(waitings) > 500
    found = rings(waitings)
    assert not found, "\n".join(describe(ring) for ring in found[:10])


def has_log(wanted: Lock, held: frozenset[Lock]) -> bool:
    """Return whether the call already holds a table of the wanted log, which counts as one."""
    log = re.match(r"pgque\.event_\d+", wanted.name)
    return log is not None and any(
        re.fullmatch(re.escape(log[0]) + r"(_\d)?", lock.name) for lock in held
    )


def describe(ring: tuple[Waiting, ...]) -> str:
    return " <-> ".join(f"{w.call} wants {w.wanted} holding {sorted(w.held)}" for w in ring)


def test_p5_locks_are_taken_in_the_documented_order(waitings):
    wrong = {
        f"{call} wants {wanted.name} and holds {lock.name}"
        for call, wanted, held in waitings
        for lock in held
        if (late := rank(lock)) is not None
        and (early := rank(wanted)) is not None
        and late > early
        and not has_log(wanted, held)
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_the_expected_waits_are_observed(waitings):
    """Otherwise the tests above would pass without seeing anything."""
    seen = defaultdict(set)
    for call, wanted, _ in waitings:
        seen[call].add(wanted.name.rstrip("0123456789:_ "))
    assert {"queue q", "subscriber c", "retry"} <= seen["drop_queue(text,boolean)"]
    assert "subscriber c" in seen["ack(bigint) of {c_batch}"]
    assert {"subscriber g.b", "subscriber g"} <= seen[
        "receive_coop(text,text,text,integer,interval) of 'q', 'g', 'b'"
    ]
    # send waits for the log only: drop_queue holds the queue's row and every earlier lock by then.
    assert "pgque.event" in seen["send(text,text)"]
    assert {"name", "name -"} & seen["drop_queue(text,boolean)"]  # the key may be negative
