"""Sequences that fall behind their tables are advanced before an id is issued twice."""

import pytest

from tests.fix_engine import (
    ack,
    column,
    configure,
    drain,
    ids,
    nack,
    notices,
    payloads,
    receive,
    rotate_ledger,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)

BATCHES = "pgque.batch_id_seq"


def restart(conn, queue: str) -> None:
    name = value(conn, "select queue_event_seq from pgque.queue where queue_name = %s", queue)
    conn.execute(f"alter sequence {name} restart")


def test_p1_events_sent_with_used_ids_are_delivered_under_new_ids(autoconn, queue, consumer):
    old = send_many(autoconn, queue, 5)
    assert ids(drain(autoconn, queue, consumer)) == old
    restart(autoconn, queue)
    with autoconn.transaction():
        for n in range(3):
            send(autoconn, queue, f"again {n}")
    heard = notices(autoconn)
    assert value(autoconn, "select pgque.ticker()") == 1
    assert "was at 3, but ids up to 5 were used" in heard[0]
    got = drain(autoconn, queue, consumer)
    assert payloads(got) == ["again 0", "again 1", "again 2"]
    assert min(ids(got)) > max(old)
    assert send(autoconn, queue) > max(ids(got))
    assert len(column(autoconn, "select ev_id from pgque.event_1")) == len(
        set(column(autoconn, "select ev_id from pgque.event_1"))
    )


def test_p1_unticked_events_sent_before_the_reset_keep_their_ids(autoconn, queue, consumer):
    drain(autoconn, queue, consumer)
    send_many(autoconn, queue, 2)
    drain(autoconn, queue, consumer)
    waiting = send_many(autoconn, queue, 4)
    restart(autoconn, queue)
    send(autoconn, queue, "again")
    got = drain(autoconn, queue, consumer)
    assert ids(got)[:4] == waiting
    assert payloads(got)[4:] == ["again"]


def test_p8_a_batch_of_renumbered_events_is_no_larger_than_requested(autoconn, queue, consumer):
    drain(autoconn, queue, consumer)
    send_many(autoconn, queue, 50)
    drain(autoconn, queue, consumer)
    restart(autoconn, queue)
    send_many(autoconn, queue, 40)
    tick(autoconn, queue)
    assert len(receive(autoconn, queue, consumer, 7)) == 7
    assert len(drain(autoconn, queue, consumer, 7)) == 40


def test_p1_a_dead_letter_is_not_confused_with_an_older_one_of_the_same_id(
    autoconn, queue, consumer
):
    configure(autoconn, queue, max_retries=0)
    drain(autoconn, queue, consumer)
    for count in (3, 1):
        send_many(autoconn, queue, count)
        tick(autoconn, queue)
        batch = receive(autoconn, queue, consumer)
        nack(autoconn, batch[0])
        ack(autoconn, batch)
        restart(autoconn, queue)
    assert value(autoconn, "select count(*) from pgque.dead_letter") == 2


def test_a_log_in_use_is_advanced_by_the_next_tick_and_other_queues_are_ticked(
    autoconn, conn, queue, consumer
):
    value(autoconn, "select pgque.create_queue('other')")
    subscribe(autoconn, "other", "c")
    send_many(autoconn, queue, 5)
    settle(autoconn, queue)
    restart(autoconn, queue)
    send(conn, queue, "open")
    send(autoconn, "other", "fine")
    heard = notices(autoconn)
    assert value(autoconn, "select pgque.ticker()") == 1
    assert any("is behind the log and cannot be advanced" in text for text in heard)
    assert payloads(drain(autoconn, "other", "c")) == ["fine"]
    conn.commit()
    assert payloads(drain(autoconn, queue, consumer))[5:] == ["open"]


def test_p9_no_batch_id_is_issued_twice(autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    held = receive(autoconn, queue, consumer)
    autoconn.execute(f"alter sequence {BATCHES} restart")
    heard = notices(autoconn)
    value(autoconn, "select pgque.maint()")
    assert any(f"{BATCHES} was at 0" in text for text in heard)
    ack(autoconn, held)
    send(autoconn, queue)
    tick(autoconn, queue)
    assert receive(autoconn, queue, consumer)[0].batch_id > held[0].batch_id
    value(autoconn, "select pgque.maint()")
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("sequence", "call"),
    [
        ("queue_queue_id_seq", "select pgque.create_queue('another')"),
        ("consumer_co_id_seq", "select pgque.subscribe('{queue}', 'another')"),
        ("subscriber_sub_id_seq", "select pgque.subscribe('{queue}', 'another')"),
    ],
)
def test_ids_of_queues_and_consumers_continue(autoconn, queue, consumer, sequence, call):
    autoconn.execute(f"alter sequence pgque.{sequence} restart")
    value(autoconn, "select pgque.maint()")
    assert value(autoconn, call.format(queue=queue)) == 1


def test_p1_a_subscription_does_not_inherit_the_position_of_a_reused_id(autoconn, queue, consumer):
    value(autoconn, "select pgque.unsubscribe(%s, %s)", queue, consumer)
    autoconn.execute("alter sequence pgque.subscriber_sub_id_seq restart")
    value(autoconn, "select pgque.maint()")
    subscribe(autoconn, queue, "another")
    assert value(autoconn, "select count(*) from pgque.cursor where cur_sub = 1") == 1
    assert rotate_ledger(autoconn)


def test_create_queue_skips_a_number_whose_log_exists(autoconn):
    autoconn.execute("create table pgque.event_1 (n int)")
    assert value(autoconn, "select pgque.create_queue('q')") == 1
    assert value(autoconn, "select queue_id from pgque.queue") == 2


WITHOUT = "--exclude-table-data=pgque.*_seq"


def test_p1_p3_a_dump_without_sequence_values_continues_to_work(old, restore):
    sent = send_many(old, "q", 5)
    done = drain(old, "q", "c", 2)
    unticked = send_many(old, "q", 3)
    conn = restore(dump_options=[WITHOUT])
    assert value(conn, "select pg_sequence_last_value('pgque.event_1_id_seq')") is None
    young = [send(conn, "q", f"young {n}") for n in range(3)]
    assert young == [1, 2, 3]
    heard = notices(conn)
    value(conn, "select pgque.maint()")
    got = drain(conn, "q", "c")
    assert ids(got)[:3] == unticked
    assert payloads(got)[3:] == ["young 0", "young 1", "young 2"]
    assert min(ids(got)[3:]) > max(unticked)
    assert drain(conn, "q", "c") == []
    assert any("batch_id_seq was at 0" in text for text in heard)
    send(conn, "q")
    tick(conn, "q")
    assert receive(conn, "q", "c")[0].batch_id > done[-1].batch_id
    assert sent
