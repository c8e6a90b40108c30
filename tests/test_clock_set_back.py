"""The server's clock is set back: stored times are in the future, and work still goes on.

The tests move all stored times forward by an hour, which is equivalent.
"""

from datetime import timedelta

import pytest

from pgque.doctor import Status, examine
from pgque.tail import Tail
from pgque.testing import clock
from pgque.watching.browse import Browser
from tests.fix_engine import (
    ack,
    column,
    configure,
    drain,
    ids,
    let_die,
    log_of,
    payloads,
    receive,
    receive_coop,
    retry,
    rotate_ledger,
    send,
    send_many,
    subscribe,
    tick,
    value,
)

HOUR = timedelta(hours=1)


def set_back(conn, by: timedelta = HOUR) -> None:
    """Set the clock back from pgque's point of view."""
    for table, columns in clock.MOVED.items():
        changes = ", ".join(f"{name} = {name} + %(by)s" for name in columns)
        conn.execute(f"update pgque.{table} set {changes}", {"by": by})
    for log in column(conn, "select queue_data_pfx from pgque.queue"):
        conn.execute(f"update {log} set ev_time = ev_time + %s", [by])


def test_a_tick_is_due_after_the_step_for_any_setting(autoconn, queue, consumer):
    configure(autoconn, queue, ticker_max_lag="10 seconds")
    value(autoconn, "select pgque.force_next_tick(%s)", queue)
    assert tick(autoconn, queue)
    set_back(autoconn)
    sent = send(autoconn, queue)
    assert value(autoconn, "select pgque.ticker()") == 1
    assert ids(receive(autoconn, queue, consumer)) == [sent]


def test_the_tick_after_that_waits_for_its_time_again(autoconn, queue, consumer):
    configure(autoconn, queue, ticker_max_lag="1 hour")
    set_back(autoconn)
    send(autoconn, queue)
    assert tick(autoconn, queue)
    send(autoconn, queue)
    assert tick(autoconn, queue) is None


@pytest.mark.parametrize("call", ["ticker()", "ticker('{}')"])
def test_an_idle_tick_is_due_after_the_step(autoconn, queue, call):
    configure(autoconn, queue, ticker_idle_period="1 minute")
    set_back(autoconn)
    assert value(autoconn, f"select pgque.{call.format(queue)}")
    assert tick(autoconn, queue) is None


@pytest.mark.parametrize("call", ["maint()", "maint_rotate_tables_step1('{}')"])
def test_the_log_is_rotated_once_after_the_step(autoconn, queue, call):
    send(autoconn, queue)
    tick(autoconn, queue)
    set_back(autoconn)
    assert value(autoconn, f"select pgque.{call.format(queue)}") == 1
    assert value(autoconn, f"select pgque.{call.format(queue)}") == 0, "rotated again"


@pytest.mark.parametrize("merged", [False, True])
def test_a_member_that_died_before_the_step_is_taken_over(autoconn, queue, merged):
    for member in "ab":
        receive_coop(autoconn, queue, "g", member)
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive_coop(autoconn, queue, "g", "a")
    set_back(autoconn)
    taken = receive_coop(autoconn, queue, "g", "b", 100, "1 minute", merged=merged)
    assert ids(taken) == ids(batch)
    assert ack(autoconn, batch) == 0


def test_a_member_is_not_taken_over_after_a_step_of_a_second(autoconn, queue):
    for member in "ab":
        receive_coop(autoconn, queue, "g", member)
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive_coop(autoconn, queue, "g", "a")
    set_back(autoconn, timedelta(seconds=1))
    assert receive_coop(autoconn, queue, "g", "b", 100, "1 minute") == []
    assert ack(autoconn, batch) == 1


def test_waiting_time_is_counted_from_the_events(autoconn, queue, consumer):
    set_back(autoconn)
    send(autoconn, queue)
    autoconn.execute(
        f"update {log_of(autoconn, queue)} set ev_time = ev_time - interval '1 minute'"
    )
    waits = "select waiting from pgque.get_{}_wait(%s)"
    assert value(autoconn, waits.format("queue"), queue) > timedelta(seconds=59)
    assert value(autoconn, waits.format("consumer"), queue) > timedelta(seconds=59)


def test_waiting_time_is_counted_from_the_first_tick_after_the_step(autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    set_back(autoconn)
    send(autoconn, queue)
    tick(autoconn, queue)
    autoconn.execute(
        "update pgque.tick set tick_time = tick_time - interval '1 minute' "
        "where tick_time < clock_timestamp()"
    )
    waiting, ready = autoconn.execute(
        "select waiting, ready from pgque.get_consumer_wait(%s)", [queue]
    ).fetchone()
    assert waiting > timedelta(seconds=59)
    assert ready > timedelta(seconds=59)


def test_no_figure_is_negative(autoconn, queue, consumer):
    send_many(autoconn, queue, 5)
    tick(autoconn, queue)
    batch_id = receive(autoconn, queue, consumer)[0].batch_id
    set_back(autoconn)
    zero = timedelta(0)
    queue_info = "select ticker_lag, coalesce(ev_per_sec, 0) >= 0 from pgque.get_queue_info(%s)"
    assert autoconn.execute(queue_info, [queue]).fetchone() == (zero, True)
    info = "select lag, last_seen from pgque.get_consumer_info(%s)"
    assert autoconn.execute(info, [queue]).fetchone() == (zero, zero)
    assert value(autoconn, "select lag from pgque.get_batch_info(%s)", batch_id) == zero
    wait = "select last_seen, waiting, ready from pgque.get_consumer_wait(%s)"
    assert min(autoconn.execute(wait, [queue]).fetchone()) == zero


@pytest.mark.parametrize(
    ("min_lag", "min_interval"), [("1 minute", None), (None, "1 minute"), ("1 minute", "1 minute")]
)
def test_a_window_with_a_minimum_age_or_span_is_ready(
    autoconn, queue, consumer, min_lag, min_interval
):
    send(autoconn, queue)
    tick(autoconn, queue)
    set_back(autoconn)
    if not min_lag:
        send(autoconn, queue)
        tick(autoconn, queue)
        drain_one = "update pgque.cursor set cur_tick = 2"
        autoconn.execute(drain_one)
    opened = "select batch_id from pgque.next_batch_custom(%s, %s, %s, null, %s)"
    if min_lag and min_interval:
        send(autoconn, queue)
        tick(autoconn, queue)
        autoconn.execute("update pgque.cursor set cur_tick = 2")
        autoconn.execute(
            "update pgque.tick set tick_time = tick_time - interval '2 minutes' where tick_id = 3"
        )
    assert value(autoconn, opened, queue, consumer, min_lag, min_interval) is not None


def test_seek_to_a_time_that_occurred_twice_starts_at_the_first(autoconn, queue, consumer):
    for payload in ("early", "at noon", "at one"):
        send(autoconn, queue, payload)
        tick(autoconn, queue)
    autoconn.execute(
        "update pgque.tick "
        "set tick_time = now() - interval '1 hour' + tick_id * interval '20 minutes'"
    )
    set_back(autoconn, timedelta(minutes=40))
    for payload in ("at noon again", "at one again"):
        send(autoconn, queue, payload)
        tick(autoconn, queue)
    drain(autoconn, queue, consumer)
    at = value(autoconn, "select tick_time + interval '1 minute' from pgque.tick where tick_id = 2")
    autoconn.execute(
        "update pgque.tick set tick_time = %s + (tick_id - 4) * interval '10 minutes' "
        "where tick_id > 4",
        [at],
    )
    assert value(autoconn, "select pgque.seek(%s, %s, %s::timestamptz)", queue, consumer, at) == 2
    assert payloads(drain(autoconn, queue, consumer)) == [
        "at noon", "at one", "at noon again", "at one again",
    ]  # fmt: skip


def test_tail_and_browse_by_time_leave_nothing_out(autoconn, queue):
    for payload in "ab":
        send(autoconn, queue, payload)
        tick(autoconn, queue)
    now = value(autoconn, "select now()")
    set_back(autoconn)
    for payload in "cd":
        send(autoconn, queue, payload)
        tick(autoconn, queue)
    later = now + timedelta(minutes=30)
    assert [event.payload for event in Tail(autoconn, queue, later).read()] == list("abcd")
    found = Browser(autoconn).messages(queue, until=later)
    assert {row.payload for row in found.rows} == set("abcd")


def test_seek_ignores_ticks_before_the_kept_history(autoconn, queue, consumer):
    for _ in range(3):
        send(autoconn, queue)
        tick(autoconn, queue)
    autoconn.execute("update pgque.tick set tick_time = '2100-01-01' where tick_id = 1")
    autoconn.execute("update pgque.queue set queue_history_tick = 2")
    assert value(autoconn, "select pgque.seek(%s, %s, now())", queue, consumer) == 4


def test_history_in_the_future_is_also_thinned(autoconn, queue):
    for _ in range(60):
        value(autoconn, "select pgque.force_next_tick(%s)", queue)
        tick(autoconn, queue)
    autoconn.execute(
        "update pgque.tick set tick_time = now() + interval '1 hour' + tick_id * interval '1 s'"
    )
    assert rotate_ledger(autoconn)
    assert value(autoconn, "select count(*) from pgque.tick") <= 4


def test_dead_letters_are_purged_by_their_distance_from_now(autoconn, queue, consumer):
    send(autoconn, queue)
    let_die(autoconn, queue, consumer)
    set_back(autoconn)
    purge = "select pgque.dlq_purge(%s, %s)"
    assert value(autoconn, purge, queue, "2 hours") == 0
    assert value(autoconn, purge, queue, "1 minute") == 1


def test_a_retry_waits_for_its_stored_time(autoconn, queue, consumer):
    """A retry stores a time, and the clock decides when it has come: see docs/operations.md."""
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    call = "select pgque.event_retry(%s, %s, now() + %s)"
    value(autoconn, call, batch[0].batch_id, batch[0].msg_id, timedelta(hours=-2))
    value(autoconn, call, batch[0].batch_id, batch[1].msg_id, timedelta(0))
    ack(autoconn, batch)
    set_back(autoconn)
    assert retry(autoconn) == 1
    autoconn.execute(
        "update pgque.retry_queue set ev_retry_after = ev_retry_after - interval '1 hour'"
    )
    assert retry(autoconn) == 1


def test_every_event_is_delivered_once_across_several_steps(autoconn, queue, consumer):
    """Events sent before and after each step all arrive, once and in order."""
    subscribe(autoconn, queue, "late")
    sent = []
    for _ in range(5):
        sent.append(send(autoconn, queue))
        tick(autoconn, queue)
        set_back(autoconn)
        assert value(autoconn, "select pgque.maint()") is not None
    assert ids(drain(autoconn, queue, consumer, 2)) == sent
    assert ids(drain(autoconn, queue, "late")) == sent


def test_doctor_reports_the_step(dsn, autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    assert not [f for f in examine(dsn) if f.check == "clock" and f.status is not Status.OK]
    set_back(autoconn)
    [found] = [finding for finding in examine(dsn) if finding.check == "clock"]
    assert found.status is Status.WARNING
    assert "in the future" in found.detail
