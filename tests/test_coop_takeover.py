"""Members that die, are taken over or are removed (sql/group, sql/share)."""

from datetime import timedelta

from pgque.testing import advance
from tests.fix_coop import DEAD, drain_coop, register, unregister
from tests.fix_engine import (
    Thread,
    ack,
    ids,
    is_blocked,
    nack,
    notices,
    receive_coop,
    refused,
    send,
    send_many,
    tick,
    value,
)
from tests.running import eventually


def test_p9_a_takeover_gets_a_new_id_and_the_old_member_is_told(autoconn, queue, group):
    sent = send_many(autoconn, queue, 4)
    tick(autoconn, queue)
    lost = receive_coop(autoconn, queue, group, "a", 4)
    assert receive_coop(autoconn, queue, group, "b", 4) == []
    assert receive_coop(autoconn, queue, group, "b", 4, "1 hour") == []
    taken = receive_coop(autoconn, queue, group, "b", 4, DEAD)
    assert ids(taken) == sent
    assert taken[0].batch_id != lost[0].batch_id
    heard = notices(autoconn)
    assert ack(autoconn, lost) == 0
    assert "is not open: it was finished or taken over" in heard[0]
    with refused("PQ003", f"batch not found: {lost[0].batch_id}"):
        nack(autoconn, lost[0])
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 0
    assert receive_coop(autoconn, queue, group, "a", 4) == []
    assert ack(autoconn, taken) == 1
    assert drain_coop(autoconn, queue, group, "abc") == []


def test_p9_a_batch_can_be_taken_over_repeatedly(autoconn, queue, group):
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    batches = [receive_coop(autoconn, queue, group, member, 2, DEAD) for member in "abcab"]
    assert len({tuple(ids(batch)) for batch in batches}) == 1
    assert len({batch[0].batch_id for batch in batches}) == 5
    assert [ack(autoconn, batch) for batch in batches] == [0, 0, 0, 0, 1]


def test_p6_a_takeover_in_smaller_parts_delivers_every_event(autoconn, queue, group):
    sent = send_many(autoconn, queue, 9)
    tick(autoconn, queue)
    receive_coop(autoconn, queue, group, "a", 6)
    got = []
    while batch := receive_coop(autoconn, queue, group, "b", 2, DEAD):
        got += ids(batch)
        ack(autoconn, batch)
    assert got == sent


def test_p6_events_that_a_dead_member_acked_are_not_delivered_again(autoconn, queue, group):
    sent = send_many(autoconn, queue, 6)
    tick(autoconn, queue)
    receive_coop(autoconn, queue, group, "a", 6)
    ack(autoconn, receive_coop(autoconn, queue, group, "a", 2))
    assert ids(receive_coop(autoconn, queue, group, "b", 10, DEAD)) == sent[2:]


def test_a_working_member_is_not_taken_over(connect, autoconn, queue, group):
    """A member whose row is locked counts as alive, and its touch does not wait for the lock."""
    send(autoconn, queue)
    tick(autoconn, queue)
    worker = connect()
    batch = receive_coop(autoconn, queue, group, "a")
    nack(worker, batch[0])
    assert receive_coop(autoconn, queue, group, "b", 10, DEAD) == []
    autoconn.execute("set lock_timeout = '1s'")
    touch = "select pgque.touch_subconsumer(%s, 'g', 'a')"
    assert value(autoconn, touch, queue) == 1
    assert ack(worker, batch) == 1
    worker.commit()


def test_touch_counts_as_a_sign_of_life(autoconn, queue, group):
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive_coop(autoconn, queue, group, "a")
    advance(autoconn, timedelta(hours=1))
    assert value(autoconn, "select pgque.touch_subconsumer(%s, 'g', 'a')", queue) == 1
    assert receive_coop(autoconn, queue, group, "b", 10, "10 minutes") == []
    assert ids(receive_coop(autoconn, queue, group, "a")) == ids(batch)
    assert value(autoconn, "select pgque.touch_subconsumer(%s, 'g', 'x')", queue) == 0


def test_p5_only_one_of_two_siblings_takes_over_a_dead_member(connect, autoconn, queue, group):
    send(autoconn, queue)
    tick(autoconn, queue)
    receive_coop(autoconn, queue, group, "a")
    first, second = connect(), connect(autocommit=True)
    taken = receive_coop(first, queue, group, "b", 10, DEAD)
    waiting = Thread(lambda: receive_coop(second, queue, group, "c", 10, "1 hour"))
    assert waiting.outcome() == []
    waiting = Thread(lambda: receive_coop(second, queue, group, "c", 10, DEAD))
    eventually(lambda: is_blocked(autoconn, second) or not waiting.is_alive())
    first.commit()
    again = waiting.outcome()
    assert len(taken) == 1
    assert len(again) <= 1
    acks = ack(autoconn, taken) + sum(ack(autoconn, [message]) for message in again)
    assert acks == 1


def test_unregister_refuses_an_open_batch_or_nacks_it(autoconn, queue, group):
    sent = send_many(autoconn, queue, 5)
    tick(autoconn, queue)
    batch = receive_coop(autoconn, queue, group, "a", 4)
    ack(autoconn, receive_coop(autoconn, queue, group, "a", 1))
    receive_coop(autoconn, queue, group, "a", 2)
    with refused("PQ012", f"subconsumer a of consumer g on queue {queue} holds a batch"):
        unregister(autoconn, queue, "a")
    assert unregister(autoconn, queue, "a", 1) == 1
    assert ack(autoconn, batch) == 0
    autoconn.execute("update pgque.retry_queue set ev_retry_after = now()")
    value(autoconn, "select pgque.maint_retry_events()")
    messages = drain_coop(autoconn, queue, group, "bc")
    assert {m.msg_id: m.retry_count for m in messages} == {
        sent[1]: 1,
        sent[2]: 1,
        sent[3]: 1,
        sent[4]: 0,
    }


def test_a_removed_member_can_register_again(autoconn, queue, group):
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive_coop(autoconn, queue, group, "a")
    unregister(autoconn, queue, "a", 1)
    assert register(autoconn, queue, "a") == 1
    assert ack(autoconn, batch) == 0
    with refused("PQ003", "batch not found"):
        autoconn.execute("select pgque.get_batch_events(%s)", [batch[0].batch_id])
