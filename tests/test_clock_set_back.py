"""The server's clock is set back: stored times lie in the future, and nothing stands still.

A clock that goes back by an hour is all that is stored going on by an hour.
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
    """Set the clock back, as far as pgque can tell."""
    for table, columns in clock.MOVED.items():
        changes = ", ".join(f"{name} = {name} + %(by)s" for name in columns)
        conn.execute(f"update pgque.{table} set {changes}", {"by": by})
    for log in column(conn, "select queue_data_pfx from pgque.queue"):
        conn.execute(f"update {log} set ev_time = ev_time + %s", [by])


def test_a_tick_is_due_whatever_the_queue_waits_for(autoconn, queue, consumer):
    configure(autoconn, queue, ticker_max_lag="10 seconds")
    value(autoconn, "select pgque.force_next_tick(%s)", queue)
    assert tick(autoconn, queue)
    set_back(autoconn)
    sent = send(autoconn, queue)
    assert value(autoconn, "select pgque.ticker()") == 1
    assert ids(receive(autoconn, queue, consumer)) == [sent]


def test_a_tick_after_the_one_that_was_due_waits_for_its_time(autoconn, queue, consumer):
    configure(autoconn, queue, ticker_max_lag="1 hour")
    set_back(autoconn)
    send(autoconn, queue)
    assert tick(autoconn, queue)
    send(autoconn, queue)
    assert tick(autoconn, queue) is None


@pytest.mark.parametrize("call", ["ticker()", "ticker('{}')"])
def test_a_tick_of_an_idle_queue_is_due(autoconn, queue, call):
    configure(autoconn, queue, ticker_idle_period="1 minute")
    set_back(autoconn)
    assert value(autoconn, f"select pgque.{call.format(queue)}")
    assert tick(autoconn, queue) is None


@pytest.mark.parametrize("call", ["maint()", "maint_rotate_tables_step1('{}')"])
def test_the_log_is_rotated(autoconn, queue, call):
    send(autoconn, queue)
    tick(autoconn, queue)
    set_back(autoconn)
    assert value(autoconn, f"select pgque.{call.format(queue)}") == 1
    assert value(autoconn, f"select pgque.{call.format(queue)}") == 0, "by the new clock"


@pytest.mark.parametrize("merged", [False, True])
def test_a_member_that_died_before_is_taken_over_from(autoconn, queue, merged):
    for member in "ab":
        receive_coop(autoconn, queue, "g", member)
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive_coop(autoconn, queue, "g", "a")
    set_back(autoconn)
    taken = receive_coop(autoconn, queue, "g", "b", 100, "1 minute", merged=merged)
    assert ids(taken) == ids(batch)
    assert ack(autoconn, batch) == 0


def test_a_member_is_not_thought_dead_for_a_moment_by_which_the_clock_was_set_back(autoconn, queue):
    for member in "ab":
        receive_coop(autoconn, queue, "g", member)
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive_coop(autoconn, queue, "g", "a")
    set_back(autoconn, timedelta(seconds=1))
    assert receive_coop(autoconn, queue, "g", "b", 100, "1 minute") == []
    assert ack(autoconn, batch) == 1


def test_waiting_is_counted_from_the_events(autoconn, queue, consumer):
    set_back(autoconn)
    send(autoconn, queue)
    autoconn.execute(
        f"update {log_of(autoconn, queue)} set ev_time = ev_time - interval '1 minute'"
    )
    waits = "select waiting from pgque.get_{}_wait(%s)"
    assert value(autoconn, waits.format("queue"), queue) > timedelta(seconds=59)
    assert value(autoconn, waits.format("consumer"), queue) > timedelta(seconds=59)


def test_waiting_is_counted_from_the_first_tick_by_the_new_clock(autoconn, queue, consumer):
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
def test_a_window_of_a_certain_age_or_span_is_ready(
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


def test_seek_to_a_time_that_was_twice_delivers_all_that_was_sent_after_the_first(
    autoconn, queue, consumer
):
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


def test_what_is_looked_at_since_or_until_a_time_leaves_nothing_out(autoconn, queue):
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


def test_seek_does_not_stumble_over_ticks_before_the_history_that_is_kept(
    autoconn, queue, consumer
):
    for _ in range(3):
        send(autoconn, queue)
        tick(autoconn, queue)
    autoconn.execute("update pgque.tick set tick_time = '2100-01-01' where tick_id = 1")
    autoconn.execute("update pgque.queue set queue_history_tick = 2")
    assert value(autoconn, "select pgque.seek(%s, %s, now())", queue, consumer) == 4


def test_history_of_the_future_is_thinned_too(autoconn, queue):
    for _ in range(60):
        value(autoconn, "select pgque.force_next_tick(%s)", queue)
        tick(autoconn, queue)
    autoconn.execute(
        "update pgque.tick set tick_time = now() + interval '1 hour' + tick_id * interval '1 s'"
    )
    assert rotate_ledger(autoconn)
    assert value(autoconn, "select count(*) from pgque.tick") <= 4


def test_dead_letters_are_purged_by_their_distance(autoconn, queue, consumer):
    send(autoconn, queue)
    let_die(autoconn, queue, consumer)
    set_back(autoconn)
    purge = "select pgque.dlq_purge(%s, %s)"
    assert value(autoconn, purge, queue, "2 hours") == 0
    assert value(autoconn, purge, queue, "1 minute") == 1


def test_a_retry_comes_by_its_time_and_what_is_due_comes(autoconn, queue, consumer):
    """It was told a time, and the clock says when that is: see docs/operations.md."""
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


def test_every_round_goes_on_after_a_step(autoconn, queue, consumer):
    """Sent before and after: all of it comes, once, in order."""
    subscribe(autoconn, queue, "late")
    sent = []
    for _ in range(5):
        sent.append(send(autoconn, queue))
        tick(autoconn, queue)
        set_back(autoconn)
        assert value(autoconn, "select pgque.maint()") is not None
    assert ids(drain(autoconn, queue, consumer, 2)) == sent
    assert ids(drain(autoconn, queue, "late")) == sent


def test_doctor_names_the_step(dsn, autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    assert not [f for f in examine(dsn) if f.check == "clock" and f.status is not Status.OK]
    set_back(autoconn)
    [found] = [finding for finding in examine(dsn) if finding.check == "clock"]
    assert found.status is Status.WARNING
    assert "in the future" in found.detail
