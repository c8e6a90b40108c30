"""Cooperative groups (sql/group, sql/share, sql/window)."""

import pytest

from tests.fix_coop import DEAD, drain_coop, register, unregister
from tests.fix_engine import (
    LONG,
    Thread,
    ack,
    configure,
    drain,
    ids,
    nack,
    payloads,
    receive,
    receive_coop,
    refused,
    rotate,
    rotate_ledger,
    send,
    send_many,
    subscribe,
    tick,
    value,
)


def roles(conn) -> dict[str, str]:
    query = (
        "select co_name, sub_role "
        "from pgque.subscription join pgque.consumer on co_id = sub_consumer"
    )
    return dict(conn.execute(query).fetchall())


# Members


def test_register_and_unregister_return_1_or_0_if_nothing_changed(autoconn, queue):
    assert [register(autoconn, queue, "a"), register(autoconn, queue, "a")] == [1, 0]
    assert roles(autoconn) == {"g": "coop_main", "g.a": "coop_member"}
    alias = "select pgque.subscribe_subconsumer(queue := %s, consumer := 'g', subconsumer := 'b')"
    assert [value(autoconn, alias, queue), value(autoconn, alias, queue)] == [1, 0]
    assert [unregister(autoconn, queue, "a"), unregister(autoconn, queue, "a")] == [1, 0]
    alias = alias.replace("subscribe_", "unsubscribe_")
    assert [value(autoconn, alias, queue), value(autoconn, alias, queue)] == [1, 0]
    assert roles(autoconn) == {"g": "normal"}
    assert unregister(autoconn, queue, "a", group="nobody") == 0


def test_after_its_last_member_leaves_a_group_is_a_normal_consumer(autoconn, queue, group):
    sent = send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    ack(autoconn, receive_coop(autoconn, queue, group, "a", 4))
    for member in "abc":
        unregister(autoconn, queue, member)
    assert ids(drain(autoconn, queue, group, 4)) == sent[4:]


def test_a_normal_consumer_becomes_a_group_only_on_request(autoconn, queue, consumer):
    sent = send_many(autoconn, queue, 6)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 2)
    with refused("PQ008", f"consumer {consumer} on queue {queue} is already a normal consumer"):
        register(autoconn, queue, "a", group=consumer)
    with refused("PQ008", f"consumer {consumer} on queue {queue} is already a normal consumer"):
        receive_coop(autoconn, queue, consumer, "a")
    with refused("PQ008", f"cannot convert active normal consumer {consumer} on queue {queue}"):
        register(autoconn, queue, "a", True, group=consumer)
    ack(autoconn, batch)
    assert register(autoconn, queue, "a", True, group=consumer) == 1
    assert register(autoconn, queue, "b", group=consumer) == 1
    assert ids(drain_coop(autoconn, queue, consumer, "ab", 2)) == sent[2:]


def test_a_member_cannot_take_the_name_of_a_normal_consumer(autoconn, queue):
    subscribe(autoconn, queue, "g.a")
    with refused("PQ008", f"consumer g.a on queue {queue} is already a normal consumer"):
        register(autoconn, queue, "a")
    assert roles(autoconn) == {"g.a": "normal"}


PLAIN = [
    "pgque.receive(%s, %s)",
    "pgque.receive_merged(%s, %s)",
    "pgque.next_batch(%s, %s)",
    "pgque.next_batch_info(%s, %s)",
    "pgque.next_batch_custom(%s, %s, null, null, null)",
    "pgque.unsubscribe(%s, %s)",
    "pgque.unregister_consumer(%s, %s)",
]


@pytest.mark.parametrize("call", PLAIN)
def test_p10_plain_calls_on_cooperative_names_name_the_right_call(shared, shared_queue, call):
    register(shared, shared_queue, "a")
    send(shared, shared_queue)
    tick(shared, shared_queue)
    for name, kind in (("g", "main consumer"), ("g.a", "subconsumer")):
        with refused("PQ007", f"{name} is a cooperative {kind}"):
            try:
                shared.execute(f"select {call}".encode(), [shared_queue, name])
            except Exception as error:
                assert "receive_coop" in error.diag.message_hint
                assert "unregister_subconsumer" in error.diag.message_hint
                raise


def test_seek_moves_a_group_but_not_a_member(autoconn, queue, group):
    send_many(autoconn, queue, 2)
    drain_coop(autoconn, queue, group, "a")
    with refused("PQ007", "g.a is a cooperative subconsumer"):
        autoconn.execute("select pgque.seek(%s, 'g.a', 1)", [queue])
    assert value(autoconn, "select pgque.seek(%s, 'g', 1)", queue) == 1
    batch = receive_coop(autoconn, queue, group, "b")
    assert len(batch) == 2
    with refused("PQ012", f"consumer g on queue {queue} holds a batch"):
        autoconn.execute("select pgque.seek(%s, 'g', 1)", [queue])


@pytest.mark.parametrize(
    ("group", "member", "error"),
    [
        ("g.h", "a", "consumer name must not contain a dot: g.h"),
        ("g", "a.b", "subconsumer name must not contain a dot: a.b"),
        ("", "a", "consumer name must not be empty"),
        (None, "a", "consumer name must not be empty"),
        ("g", "", "subconsumer name must not be empty"),
        ("g", None, "subconsumer name must not be empty"),
    ],
)
def test_p10_invalid_member_names_are_refused(shared, group, member, error):
    value(shared, "select pgque.create_queue('q')")
    for call in ("register_subconsumer", "receive_coop", "receive_coop_merged", "next_batch"):
        with refused("22023", error):
            shared.execute(
                f"select pgque.{call}('q', %s::text, %s::text)".encode(), [group, member]
            )
    for call in ("unregister_subconsumer", "touch_subconsumer"):
        statement = f"select pgque.{call}('q', %s::text, %s::text)"
        assert value(shared, statement, group, member) == 0


@pytest.mark.parametrize("handling", [2, -1, None])
def test_p10_an_unknown_batch_handling_is_refused(autoconn, queue, group, handling):
    with refused("22023", "unsupported batch_handling value"):
        unregister(autoconn, queue, "a", handling)


def test_p10_a_negative_dead_interval_is_refused(autoconn, queue):
    with refused("22023", "dead_interval must be >= 0"):
        receive_coop(autoconn, queue, "g", "a", 1, "-1 second")
    assert roles(autoconn) == {}


# Sharing


def test_receive_coop_registers_a_missing_group_and_member(autoconn, queue):
    assert receive_coop(autoconn, queue, "g", "a") == []
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    assert payloads(receive_coop(autoconn, queue, "g", "a")) == ["1", "2"]
    assert receive_coop(autoconn, queue, "g", "b") == []
    assert roles(autoconn) == {"g": "coop_main", "g.a": "coop_member", "g.b": "coop_member"}


def test_cooperative_calls_accept_named_arguments(autoconn, queue):
    send(autoconn, queue)
    names = "queue := %s, consumer := 'g', subconsumer := 'a'"
    for call in (
        f"pgque.receive_coop({names})",
        f"pgque.receive_coop({names}, max_return := 1, dead_interval := '1 hour')",
        f"pgque.receive_coop_merged({names}, dead_interval := '1 hour')",
    ):
        autoconn.execute(f"select {call}".encode(), [queue])
    assert value(autoconn, f"select pgque.next_batch({names})", queue) is None
    assert (
        value(autoconn, f"select pgque.next_batch({names}, dead_interval := '1 s')", queue) is None
    )
    assert value(autoconn, f"select pgque.touch_subconsumer({names})", queue) == 1
    unregister_by_name = f"select pgque.unregister_subconsumer({names}, batch_handling := 1)"
    assert value(autoconn, unregister_by_name, queue) == 1


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_p1_p3_a_group_gets_each_event_once(connect, autoconn, queue, group, size, merged):
    late = connect()
    send(late, queue)
    sent = [1]
    for n in range(4):
        sent += send_many(autoconn, queue, 5)
        sent.append(send(late, queue))
        tick(autoconn, queue)
        if n == 2:
            late.commit()
    late.commit()
    got = ids(drain_coop(autoconn, queue, group, "abc", size, merged=merged))
    assert sorted(got) == sent


def test_consecutive_windows_are_given_to_different_members(autoconn, queue, group):
    for n in range(3):
        send(autoconn, queue, n)
        tick(autoconn, queue)
    batches = [receive_coop(autoconn, queue, group, member) for member in "abc"]
    assert [payloads(batch) for batch in batches] == [["0"], ["1"], ["2"]]
    assert len({batch[0].batch_id for batch in batches}) == 3


def test_a_large_window_is_shared_in_pieces_of_max_return(autoconn, queue, group):
    sent = send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    batches = [receive_coop(autoconn, queue, group, member, 4) for member in "abc"]
    assert [ids(batch) for batch in batches] == [sent[:4], sent[4:8], sent[8:]]
    for batch in batches[::-1]:
        assert ack(autoconn, batch) == 1
    assert drain_coop(autoconn, queue, group, "abc") == []


def test_receive_coop_merged_takes_several_windows(autoconn, queue, group):
    for n in range(5):
        send(autoconn, queue, n)
        tick(autoconn, queue)
    assert payloads(receive_coop(autoconn, queue, group, "a", 3, merged=True)) == ["0", "1", "2"]
    assert payloads(receive_coop(autoconn, queue, group, "b", 3)) == ["3"]
    assert payloads(receive_coop(autoconn, queue, group, "c", 3, merged=True)) == ["4"]


def test_a_member_with_an_open_batch_receives_it_again(autoconn, queue, group):
    send_many(autoconn, queue, 4)
    tick(autoconn, queue)
    batch = receive_coop(autoconn, queue, group, "a", 2)
    assert receive_coop(autoconn, queue, group, "a", 2) == batch
    assert receive_coop(autoconn, queue, group, "a", 100) == batch
    assert receive_coop(autoconn, queue, group, "a", 2, DEAD, merged=True) == batch


def test_p3_p6_a_piece_can_be_received_again_in_smaller_parts(autoconn, queue, group):
    sent = send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    piece = receive_coop(autoconn, queue, group, "a", 6)
    part = receive_coop(autoconn, queue, group, "a", 2)
    assert (ids(part), part[0].batch_id != piece[0].batch_id) == (sent[:2], True)
    assert [ack(autoconn, piece), ack(autoconn, part)] == [0, 1]
    rest = receive_coop(autoconn, queue, group, "b", 100)
    assert ids(rest) == sent[6:]
    part = receive_coop(autoconn, queue, group, "a", 100)
    assert ids(part) == sent[2:6]
    assert [ack(autoconn, rest), ack(autoconn, part)] == [1, 1]
    assert drain_coop(autoconn, queue, group, "abc") == []


def test_p5_members_work_in_parallel(connect, autoconn, queue, group):
    """Each member locks its own batch, as a nack does, and waits for no other member."""
    send_many(autoconn, queue, 6)
    tick(autoconn, queue)
    workers = [connect() for _ in "abc"]
    batches = []
    for worker, member in zip(workers, "abc", strict=True):
        worker.execute("set lock_timeout = '2s'")
        batches.append(receive_coop(worker, queue, group, member, 2))
        worker.commit()
    for worker, batch in zip(workers, batches, strict=True):
        nack(worker, batch[0], "1 hour")
    for worker, batch in zip(workers, batches, strict=True):
        assert ack(worker, batch) == 1
    send(autoconn, queue, "next")
    tick(autoconn, queue)
    assert receive_coop(workers[0], queue, group, "a", 2) != []
    for worker in workers:
        worker.commit()
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 3


def test_p5_an_empty_receive_takes_no_lock(connect, autoconn, queue, group):
    holder = connect()
    holder.execute("select from pgque.subscriber for update")
    autoconn.execute("set lock_timeout = '1s'")
    assert receive_coop(autoconn, queue, group, "a") == []
    assert receive_coop(autoconn, queue, group, "a", 10, "1 hour") == []


def test_retries_of_a_group_are_delivered_to_any_member(autoconn, queue, group):
    configure(autoconn, queue, max_retries=1)
    send(autoconn, queue)
    tick(autoconn, queue)
    for member, count in (("a", 0), ("b", 1)):
        [message] = receive_coop(autoconn, queue, group, member)
        assert message.retry_count == count
        assert nack(autoconn, message, reason="no") == 1
        ack(autoconn, message.batch_id)
        value(autoconn, "select pgque.maint_retry_events()")
        tick(autoconn, queue)
    query = "select co_name from pgque.dead_letter join pgque.consumer on co_id = dl_consumer_id"
    assert value(autoconn, query) == "g"


# Whole windows, old snapshots, rotation


def test_next_batch_of_a_member_opens_a_whole_window(autoconn, queue, group):
    for _ in range(3):
        send_many(autoconn, queue, 120)
        tick(autoconn, queue)
    following = "select pgque.next_batch(%s, 'g', %s)"
    events = "select count(*) from pgque.get_batch_events(%s)"
    first, second = (value(autoconn, following, queue, member) for member in "ab")
    assert value(autoconn, following, queue, "a") == first
    assert [value(autoconn, events, batch) for batch in (first, second)] == [120, 120]
    taken = value(autoconn, "select pgque.next_batch(%s, 'g', 'c', '1 microsecond')", queue)
    assert ack(autoconn, first) == 0
    custom = (
        "select prev_tick_id, next_tick_id from pgque.next_batch_custom("
        "queue := %s, consumer := 'g', subconsumer := 'a', min_lag := null, min_count := %s, "
        "min_interval := null)"
    )
    assert autoconn.execute(custom, [queue, 500]).fetchone() == (None, None)
    assert autoconn.execute(custom, [queue, 1]).fetchone() == (3, 4)
    assert [ack(autoconn, batch) for batch in (taken, second)] == [1, 1]


def test_next_batch_after_pieces_holds_the_rest_of_the_window(autoconn, queue, group):
    sent = send_many(autoconn, queue, 9)
    tick(autoconn, queue)
    receive_coop(autoconn, queue, group, "a", 4)
    batch_id = value(autoconn, "select pgque.next_batch(%s, 'g', 'b')", queue)
    query = "select array_agg(ev_id) from pgque.get_batch_events(%s)"
    assert value(autoconn, query, batch_id) == sent[4:]


@pytest.mark.parametrize("rotated", [False, True])
def test_p3_a_member_with_an_old_snapshot_gets_40001(connect, autoconn, queue, group, rotated):
    send_many(autoconn, queue, 4)
    tick(autoconn, queue)
    old = connect()
    old.execute("set transaction isolation level repeatable read")
    value(old, "select count(*) from pg_class")
    drain_coop(autoconn, queue, group, "ab", 2)
    if rotated:
        assert rotate_ledger(autoconn)
    with refused("40001", "could not serialize access"):
        receive_coop(old, queue, group, "a", 2)
    old.rollback()


def test_p2_open_batches_of_members_survive_rotation_of_log_and_ledger(autoconn, queue, group):
    sent = send_many(autoconn, queue, 6)
    tick(autoconn, queue)
    held = receive_coop(autoconn, queue, group, "a", 2)
    rest = receive_coop(autoconn, queue, group, "b", 100)
    assert ack(autoconn, rest) == 1
    for _ in range(4):
        send(autoconn, queue)
        tick(autoconn, queue)
        rotate(autoconn, queue)
        assert rotate_ledger(autoconn)
    assert receive_coop(autoconn, queue, group, "a", 2) == held
    assert ids(held) == sent[:2]
    assert nack(autoconn, held[0]) == 1
    assert ack(autoconn, held) == 1
    assert len(drain_coop(autoconn, queue, group, "abc")) == 4


def test_p5_members_in_threads_get_each_event_once(connect, autoconn, queue, group):
    count = 20_000 if LONG else 2_000
    for _ in range(10):
        send_many(autoconn, queue, count // 10)
        tick(autoconn, queue)

    def work(conn, member: str) -> list[int]:
        got = []
        idle = 0
        while idle < 3:
            with conn.transaction():
                batch = receive_coop(conn, queue, group, member, 20, "1 hour", merged=True)
            if batch:
                with conn.transaction():
                    assert ack(conn, batch) == 1
                got += ids(batch)
            idle = 0 if batch else idle + 1
        return got

    threads = [Thread(work, connect(), member) for member in "abcde"]
    parts = [thread.outcome(60) for thread in threads]
    assert sorted(n for part in parts for n in part) == list(range(1, count + 1))
    assert sum(1 for part in parts if part) >= 2
