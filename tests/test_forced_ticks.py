"""Forced ticks: when they are due, and that they cost no row (sql/tick)."""

import pytest

from pgque.install import install
from tests.fix_engine import (
    LONG,
    configure,
    drain,
    log_of,
    payloads,
    send,
    tick,
    value,
)
from tests.test_tick import tick_all, ticks


def test_force_next_tick_returns_the_newest_tick_and_the_next_call_ticks(autoconn, queue):
    for call in ("force_next_tick", "force_tick"):
        newest = ticks(autoconn, queue)
        assert value(autoconn, f"select pgque.{call}(%s)", queue) == newest
        assert ticks(autoconn, queue) == newest
        assert tick(autoconn, queue) == newest + 1
        assert tick(autoconn, queue) is None
        value(autoconn, f"select pgque.{call}(queue := %s)", queue)
        value(autoconn, f"select pgque.{call}(queue := %s)", queue)
        assert tick_all(autoconn) == 1
        assert tick_all(autoconn) == 0


def test_force_next_tick_overrides_max_lag(autoconn, queue, consumer):
    configure(autoconn, queue, ticker_max_lag="1 hour", ticker_max_count=1000)
    send(autoconn, queue)
    assert tick(autoconn, queue) is None
    value(autoconn, "select pgque.force_next_tick(%s)", queue)
    assert payloads(drain(autoconn, queue, consumer)) == ["x"]


def test_p7_forcing_ticks_leaves_no_dead_rows_under_a_pinned_horizon(connect, autoconn, queue):
    pin = connect()
    pin.execute("set transaction isolation level repeatable read")
    value(pin, "select pg_current_xact_id()")
    version = "select array[xmin::text, ctid::text] from pgque.queue where queue_name = %s"
    before = value(autoconn, version, queue)
    cycles = 2_000 if LONG else 100
    for _ in range(cycles):
        value(autoconn, "select pgque.force_next_tick(%s)", queue)
        assert tick(autoconn, queue)
    assert value(autoconn, version, queue) == before
    assert ticks(autoconn, queue) == cycles + 1
    pin.rollback()


def test_a_forced_tick_follows_the_call_even_if_another_ticker_is_running(connect, autoconn, queue):
    """The tick in progress may not include events committed before the call."""
    configure(autoconn, queue, ticker_max_lag="1 hour")
    ticker = connect()
    value(autoconn, "select pgque.force_next_tick(%s)", queue)
    assert tick(ticker, queue) == 2
    value(autoconn, "select pgque.force_next_tick(%s)", queue)
    ticker.commit()
    assert tick(autoconn, queue) == 3
    assert tick(autoconn, queue) is None


def test_a_tick_is_forced_at_once_even_if_the_caller_rolls_back(connect, autoconn, queue):
    caller = connect()
    value(caller, "select pgque.force_next_tick(%s)", queue)
    assert tick(autoconn, queue) == 2
    caller.rollback()
    assert tick(autoconn, queue) is None


@pytest.mark.parametrize("restored", ["restart", "restart 1000", None])
def test_a_restored_force_sequence_forces_at_most_one_tick(autoconn, queue, restored):
    for _ in range(3):
        value(autoconn, "select pgque.force_next_tick(%s)", queue)
        tick(autoconn, queue)
    sequence = log_of(autoconn, queue) + "_force_seq"
    if restored:
        autoconn.execute(f"alter sequence {sequence} {restored}")
    else:
        autoconn.execute(f"drop sequence {sequence}")
    value(autoconn, "select pgque.ticker()")
    value(autoconn, "select pgque.ticker()")
    assert value(autoconn, "select pgque.ticker()") == 0
    newest = value(autoconn, "select pgque.force_next_tick(%s)", queue)
    assert value(autoconn, "select pgque.ticker()") == 1
    assert value(autoconn, "select pgque.ticker()") == 0
    assert tick(autoconn, queue) is None
    assert ticks(autoconn, queue) == newest + 1


def test_the_force_sequence_is_dropped_with_its_queue(autoconn, queue):
    sequence = log_of(autoconn, queue) + "_force_seq"
    assert value(autoconn, "select to_regclass(%s)", sequence) is not None
    value(autoconn, "select pgque.drop_queue(%s)", queue)
    assert value(autoconn, "select to_regclass(%s)", sequence) is None


def test_install_adds_the_missing_parts_of_forced_ticks(dsn, connect, autoconn, queue):
    """As for a schema from before, which kept the forced tick in a row of pgque.queue."""
    tick(autoconn, queue)
    autoconn.execute("alter table pgque.tick drop column tick_forced")
    autoconn.execute(
        "alter table pgque.queue add column queue_forced_after bigint not null default 0"
    )
    autoconn.execute(f"drop sequence {log_of(autoconn, queue)}_force_seq")
    install(dsn)
    reader = connect()
    value(reader, "select count(*) from pgque.tick, pgque.queue")
    install(dsn)  # install again: with nothing to change, it must not wait for the reader
    reader.rollback()
    newest = value(autoconn, "select pgque.force_next_tick(%s)", queue)
    assert tick(autoconn, queue) == newest + 1
    assert tick(autoconn, queue) is None
    gone = "select count(*) from pg_attribute where attname = 'queue_forced_after'"
    assert value(autoconn, gone) == 0


def test_p5_a_forced_tick_does_not_wait_for_an_open_subscription(connect, autoconn, queue):
    subscribing = connect()
    value(autoconn, "select pgque.force_next_tick(%s)", queue)
    value(subscribing, "select pgque.subscribe(%s, 'c')", queue)
    autoconn.execute("set lock_timeout = '1s'")
    assert tick(autoconn, queue) == 2
    subscribing.rollback()
