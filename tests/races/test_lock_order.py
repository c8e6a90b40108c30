"""No single call can deadlock with another: the locks that each takes, in which order, from runs.

Each lock is held in turn, and every call is made beside it. Where a call waits, what it holds by
then is written down. Two calls can deadlock only where one waits for what the other holds, and the
reverse, with what they hold being compatible; that is looked for among all that was found.
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
"""Who waits for a table to himself only for a moment: see pgque._lock_briefly."""

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
"""queue, member, group, the name, the ticker, the log with its sequence: see sql/batch."""


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
    shared.execute("set jit = off")  # looking takes a hundred times as long with it
    shared.execute(locks.SCHEMA)
    return shared


@pytest.fixture(scope="module")
def waitings(observer: Connection) -> list[Waiting]:
    """Where each call waits, and what it holds then."""
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
        {"calls beside a lock": tried, "waits": len(found), "seconds": time.monotonic() - began},
    )
    return with_upgrades(found)


def alike(name: str) -> bool:
    """Other spellings of a call, and those that read a constant: not tried by default."""
    return name.startswith(ALIKE)


def chosen(points: list[Point], names_known: bool, queue: int) -> list[Point]:
    """The points that are worth it: by default not the other queue's tables, which are alike."""
    if names_known:
        return [point for point in points if "subscriber" in point.name]
    if LONG:
        return points
    other = re.compile(rf"pgque\.event_(?!{queue}(_|$))")
    return [point for point in points if not other.match(point.name)]


def beside(
    observer: Connection, holder: Asked, asked: Asked, name: str, text: str, point: Point
) -> list[Waiting]:
    """Make a call while the lock is held: where it waits."""
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
    """Who waits for a row more strongly than before holds it as he wanted it before."""
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
    """Whether two calls can have come so far at the same time."""
    return not any(a.shuts_out(b) for a in one.held for b in two.held)


def waits_for(one: Waiting, two: Waiting) -> bool:
    return any(lock.shuts_out(one.wanted) for lock in two.held)


def rings(waitings: Iterable[Waiting]) -> list[tuple[Waiting, ...]]:
    """Calls, two or three, each of which waits for what the next one holds."""
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


def test_p5_no_two_calls_nor_three_can_wait_for_each_other(waitings):
    assert len(waitings) > 500
    found = rings(waitings)
    assert not found, "\n".join(describe(ring) for ring in found[:10])


def has_log(wanted: Lock, held: frozenset[Lock]) -> bool:
    """Whether some table of the log of which one is wanted is held already: a log is one thing."""
    log = re.match(r"pgque\.event_\d+", wanted.name)
    return log is not None and any(
        re.fullmatch(re.escape(log[0]) + r"(_\d)?", lock.name) for lock in held
    )


def describe(ring: tuple[Waiting, ...]) -> str:
    return " <-> ".join(f"{w.call} wants {w.wanted} holding {sorted(w.held)}" for w in ring)


def test_p5_locks_are_taken_in_the_order_that_is_written_down(waitings):
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


def test_the_waits_are_those_that_must_be(waitings):
    """Else nothing would be seen by the tests above."""
    seen = defaultdict(set)
    for call, wanted, _ in waitings:
        seen[call].add(wanted.name.rstrip("0123456789:_ "))
    assert {"queue q", "subscriber c", "retry"} <= seen["drop_queue(text,boolean)"]
    assert "subscriber c" in seen["ack(bigint) of {c_batch}"]
    assert {"subscriber g.b", "subscriber g"} <= seen[
        "receive_coop(text,text,text,integer,interval) of 'q', 'g', 'b'"
    ]
    # For no name: it locks the queue's row, which drop_queue has by then with all before it.
    assert "pgque.event" in seen["send(text,text)"]
    assert {"name", "name -"} & seen["drop_queue(text,boolean)"]  # the key may be negative
