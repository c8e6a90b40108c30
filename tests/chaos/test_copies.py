"""What is looked for in a restored dump, and the clock that the server of a run has of its own."""

import time
from collections import Counter
from dataclasses import replace

import psycopg
import pytest

from bench.chaos.clock import Clock, ServerWithClock, find_library
from bench.chaos.copies import Copy
from bench.chaos.deeds import DEEDS
from bench.chaos.faults import FAULTS
from bench.chaos.tables import CONSUMERS
from tests.fix_engine import value
from tests.running import eventually


def whole() -> Copy:
    """A copy in which all is well: one event was done before, one is delivered, one is new."""
    return Copy(
        "dump",
        known=["done", "left"],
        done={(name, "done") for name in CONSUMERS},
        got=Counter((name, key) for name in CONSUMERS for key in ("left", "new")),
        sent=["new"],
    )


def test_a_copy_in_which_all_is_well():
    assert whole().violations() == []


@pytest.mark.parametrize("key", ["left", "new"])
def test_a_copy_that_lost_an_event(key):
    copy = whole()
    del copy.got[CONSUMERS[0], key]
    assert copy.violations() == [f"dump: 1 lost, as {key} at {CONSUMERS[0]}"]


def test_a_copy_that_delivers_what_was_done_or_delivers_twice():
    for key in ("done", "left"):
        copy = whole()
        copy.got[CONSUMERS[1], key] += 1
        assert copy.violations() == [f"dump: 1 delivered again, as {key} at {CONSUMERS[1]}"]


def test_what_a_held_dump_lost_is_excused_only_if_doctor_says_so():
    copy = whole()
    del copy.got[CONSUMERS[0], "left"]
    copy.got[CONSUMERS[1], "done"] += 1
    said = ["queue chaos was restored from a dump that lacks events"]
    assert len(replace(copy, rotated=True).violations()) == 2
    assert len(replace(copy, said=said).violations()) == 2  # it was not even held
    assert replace(copy, said=said, rotated=True).violations() == []


def test_what_a_copy_was_sent_itself_is_never_excused():
    copy = replace(whole(), said=["restored"], rotated=True)
    del copy.got[CONSUMERS[0], "new"]
    assert copy.violations() == [f"dump: 1 lost, as new at {CONSUMERS[0]}"]


def test_an_error_of_a_copy():
    copy = replace(whole(), errors=["it was not drained"])
    assert copy.violations() == ["dump: it was not drained"]


def test_each_fault_and_each_deed_says_what_it_is():
    assert all(fault.what for fault in FAULTS.values())
    assert all(deed.what for deed in DEEDS.values())
    assert any(deed.dead for deed in DEEDS.values())
    assert not all(deed.dead for deed in DEEDS.values())


def test_the_clock_of_a_server_is_set_back_and_ahead():
    library = find_library()
    if library is None:
        pytest.skip("libfaketime is not installed")
    clock = Clock(library)
    ahead = "select extract(epoch from clock_timestamp())::float8 - %s"
    try:
        with (
            ServerWithClock(clock=clock) as server,
            psycopg.connect(server.dsn, autocommit=True) as conn,
            psycopg.connect(server.dsn, autocommit=True) as other,
        ):
            for offset in (-3600, 5, 3600):
                clock.set(offset)
                for each in (conn, other):
                    eventually(lambda c=each, o=offset: shows(c, ahead, o), f"{offset} seconds")
            clock.set(60)
            assert (clock.steps, clock.offset, clock.furthest) == (4, 60, 3600)
            clock.catch_up()
            assert clock.offset == 3600
    finally:
        clock.close()


def shows(conn: psycopg.Connection, ahead: str, offset: int) -> bool:
    """Whether the server's clock is so far ahead of this process's, to two seconds."""
    return abs(value(conn, ahead, time.time()) - offset) < 2
