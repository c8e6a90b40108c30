"""The check of a restored dump, and the adjustable clock of a run's server."""

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
    """A copy without violations: one event was done before, one was delivered, one is new."""
    return Copy(
        "dump",
        known=["done", "left"],
        done={(name, "done") for name in CONSUMERS},
        got=Counter((name, key) for name in CONSUMERS for key in ("left", "new")),
        sent=["new"],
    )


def test_a_good_copy_has_no_violations():
    assert whole().violations() == []


@pytest.mark.parametrize("key", ["left", "new"])
def test_a_lost_event_of_a_copy_is_reported(key):
    copy = whole()
    del copy.got[CONSUMERS[0], key]
    assert copy.violations() == [f"dump: 1 lost, for example {key} by {CONSUMERS[0]}"]


def test_a_repeated_delivery_of_a_copy_is_reported():
    for key in ("done", "left"):
        copy = whole()
        copy.got[CONSUMERS[1], key] += 1
        example = f"for example {key} by {CONSUMERS[1]}"
        assert copy.violations() == [f"dump: 1 delivered again, {example}"]


def test_a_held_dump_may_lose_events_only_if_the_doctor_says_so():
    copy = whole()
    del copy.got[CONSUMERS[0], "left"]
    copy.got[CONSUMERS[1], "done"] += 1
    said = ["queue chaos was restored from a dump that lacks events"]
    assert len(replace(copy, rotated=True).violations()) == 2
    assert len(replace(copy, said=said).violations()) == 2  # this dump was not held
    assert replace(copy, said=said, rotated=True).violations() == []


def test_a_copy_may_never_lose_events_sent_to_it():
    copy = replace(whole(), said=["restored"], rotated=True)
    del copy.got[CONSUMERS[0], "new"]
    assert copy.violations() == [f"dump: 1 lost, for example new by {CONSUMERS[0]}"]


def test_an_error_of_a_copy_is_reported():
    copy = replace(whole(), errors=["draining did not finish"])
    assert copy.violations() == ["dump: draining did not finish"]


def test_each_fault_and_each_deed_has_a_description():
    assert all(fault.what for fault in FAULTS.values())
    assert all(deed.what for deed in DEEDS.values())
    assert any(deed.dead for deed in DEEDS.values())
    assert not all(deed.dead for deed in DEEDS.values())


def test_the_servers_clock_can_be_set_back_and_ahead():
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
    """Return whether the server's clock is this far ahead of ours, within two seconds."""
    return abs(value(conn, ahead, time.time()) - offset) < 2
