"""A dump restored into another cluster continues to work (sql/restore).

The transaction ids of the old cluster are far above the new one's, just above, or below.
"""

import psycopg
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
from tests.fix_restore import transaction_id, use_up_transaction_ids

OPTIONS = [[], ["--single-transaction"]]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "single transaction"])
def test_p2_everything_continues_in_a_younger_cluster(old, restore, options):
    subscribe(old, "q", "behind", "new")
    value(old, "select pgque.register_subconsumer('q', 'g', 'a')")
    sent = send_many(old, "q", 10)
    tick(old, "q")
    send_many(old, "q", 3)
    assert len(drain(old, "q", "c", 4)) == 13
    tick(old, "q")
    held = receive(old, "q", "behind", 4)
    ack(old, held)
    held = receive(old, "q", "behind", 4)
    piece = receive_coop(old, "q", "g", "a", 5)
    unticked = send(old, "q", "not ticked")

    conn = restore(*options)
    assert transaction_id(conn) < transaction_id(old)
    after = send(conn, "q", "after the restore")
    heard = notices(conn)
    assert drain(conn, "q", "c") != []
    assert "queue q was restored from another cluster" in heard[0]
    assert payloads(drain(conn, "q", "c")) == []
    assert receive(conn, "q", "behind", 4) == held
    assert ack(conn, held) == 1
    rest = ids(drain(conn, "q", "behind", 3))
    assert rest == [*range(sent[8], unticked + 1), after]
    assert receive_coop(conn, "q", "g", "a", 5) == piece
    assert ack(conn, piece) == 1
    got = []
    while batch := receive_coop(conn, "q", "g", "a", 5):
        got += ids(batch)
        ack(conn, batch)
    assert got == [*range(sent[5], unticked + 1), after]
    assert len(drain(conn, "q", "new")) == 15
    for n in range(3):
        send(conn, "q", n)
        assert payloads(drain(conn, "q", "c")) == [str(n)]
    assert len(heard) == 1


def test_p2_events_sent_before_the_first_tick_are_not_mistaken_for_old_ones(
    old, restore, young_server
):
    """Their transaction ids overlap the old cluster's and pass them before the first tick."""
    send(old, "q", "old, unseen")
    conn = restore()
    send(conn, "q", "young")
    open_producer = psycopg.connect(conn.info.dsn)
    send(open_producer, "q", "young and open")
    use_up_transaction_ids(conn.info.dsn, 8000)
    send(conn, "q", "as old as the old ones")
    assert transaction_id(conn) > transaction_id(old)
    assert payloads(drain(conn, "q", "c")) == ["old, unseen", "young", "as old as the old ones"]
    open_producer.commit()
    open_producer.close()
    assert payloads(drain(conn, "q", "c")) == ["young and open"]


def test_p2_a_restore_into_an_older_or_the_same_cluster_works(
    old, restore, own_server, young_server
):
    """The new transaction ids are above all stored ones."""
    late = psycopg.connect(old.info.dsn)
    send(late, "q", "never committed")
    send(old, "q", "seen")
    drain(old, "q", "c")
    send(old, "q", "unseen")
    use_up_transaction_ids(young_server.dsn, 10_000)
    for server, rebased in ((young_server, 1), (own_server, 1)):
        conn = restore(server=server)
        heard = notices(conn)
        send(conn, "q", "new")
        assert payloads(drain(conn, "q", "c")) == ["unseen", "new"]
        send(conn, "q", "newer")
        assert payloads(drain(conn, "q", "c")) == ["newer"]
        assert len(heard) == rebased
    late.close()
    with psycopg.connect(own_server.dsn, autocommit=True) as admin:
        admin.execute("drop database if exists restored with (force)")


def test_p2_p3_retries_continue_after_a_restore(old, restore):
    configure(old, "q", max_retries=5)
    send_many(old, "q", 6)
    tick(old, "q")
    batch = receive(old, "q", "c")
    for n in range(4):
        nack(old, batch[n])
    ack(old, batch)
    value(old, "select pgque.maint_retry_events()")
    tick(old, "q")
    done = receive(old, "q", "c", 1)
    ack(old, done)
    again = receive(old, "q", "c", 1)
    nack(old, again[0])
    ack(old, again)
    assert [ids(done), ids(again)] == [[1], [2]]

    conn = restore()
    value(conn, "select pgque.maint_retry_events()")
    messages = drain(conn, "q", "c", 1)
    assert sorted((m.msg_id, m.retry_count) for m in messages) == [(2, 2), (3, 1), (4, 1)]
    value(conn, "select pgque.maint_retry_events()")
    assert drain(conn, "q", "c") == []


def test_p2_p3_new_events_are_kept_while_a_consumer_still_reads_old_ones(old, restore):
    subscribe(old, "q", "behind")
    send_many(old, "q", 3)
    drain(old, "q", "c")
    conn = restore()
    sent = []
    for n in range(6):
        sent.append(send(conn, "q", n))
        drain(conn, "q", "c")
        rotate(conn, "q")
        assert rotate_ledger(conn)
    assert ids(drain(conn, "q", "behind", 2)) == [1, 2, 3, *sent]
    assert rotate(conn, "q") == 1


def test_p2_maintenance_before_the_first_tick_also_rebases(old, restore):
    send(old, "q", "unseen")
    tick(old, "q")
    conn = restore()
    send(conn, "q", "young")
    for _ in range(4):
        rotate(conn, "q")
        rotate_ledger(conn)
    assert payloads(drain(conn, "q", "c")) == ["unseen", "young"]


def test_p2_a_seek_to_before_the_restore_delivers_old_and_new_events(old, restore):
    for n in range(3):
        send(old, "q", f"old {n}")
        tick(old, "q")
    drain(old, "q", "c")
    conn = restore()
    send(conn, "q", "new")
    assert payloads(drain(conn, "q", "c")) == ["new"]
    assert value(conn, "select pgque.seek('q', 'c', 2)") == 2
    assert payloads(drain(conn, "q", "c", 2)) == ["old 1", "old 2", "new"]
    assert value(conn, "select pgque.seek('q', 'c', 2)") == 2
    assert payloads(drain(conn, "q", "c", 100, merged=True)) == ["old 1", "old 2", "new"]


def test_p2_a_window_of_a_minimum_size_ends_at_the_restore(old, restore):
    for n in range(3):
        send(old, "q", n)
        tick(old, "q")
    conn = restore()
    send(conn, "q", "new")
    tick(conn, "q")
    query = (
        "select array(select ev_data from pgque.get_batch_events(batch_id)), pgque.ack(batch_id) "
        "from pgque.next_batch_custom('q', 'c', null, 1000, null)"
    )
    windows = [conn.execute(query).fetchone()[0]]
    for _ in range(2):
        row = conn.execute(query.replace("1000", "1")).fetchone()
        windows.append(row[0])
    assert [window for window in windows if window] == [["0", "1", "2"], ["new"]]


def test_p2_a_database_can_be_restored_twice(old, restore):
    send(old, "q", "first life")
    drain(old, "q", "c")
    subscribe(old, "q", "behind")
    send(old, "q", "unseen")
    conn = restore()
    send(conn, "q", "second life")
    assert payloads(drain(conn, "q", "c")) == ["unseen", "second life"]
    conn.execute("update pgque.config set cluster_id = 1, checked_in = null")
    tick(conn, "q")
    send(conn, "q", "third life")
    assert payloads(drain(conn, "q", "c")) == ["third life"]
    assert payloads(drain(conn, "q", "behind", 1)) == ["unseen", "second life", "third life"]
    assert len(column(conn, "select distinct tick_floor from pgque.tick")) == 3


def test_p2_positions_missing_from_the_dump_are_replaced(old, restore):
    """The ledger was rotated between the dump's snapshot and its locks."""
    sent = send_many(old, "q", 3)
    tick(old, "q")
    old.execute("truncate pgque.cursor, pgque.cursor_0, pgque.cursor_1")
    value(old, "select pgque.create_queue('idle')")
    subscribe(old, "idle", "c")
    send(old, "idle", "kept")
    old.execute("delete from pgque.tick where tick_queue = 2")
    old.execute("delete from pgque.cursor where cur_sub = 2")
    conn = restore()
    heard = notices(conn)
    assert ids(drain(conn, "q", "c")) == sent
    assert payloads(drain(conn, "idle", "c")) == ["kept"]
    assert any(
        "the position of subscription 1 on queue q was not in the dump" in text for text in heard
    )


def test_p2_without_a_cluster_identifier_ticks_from_the_future_reveal_a_restore(old, restore):
    send(old, "q", "unseen")
    tick(old, "q")
    conn = restore()
    conn.execute(
        "create or replace function pgque._cluster_id() returns bigint "
        "language sql as 'select null::bigint'"
    )
    conn.execute("update pgque.config set cluster_id = null, checked_in = null")
    send(conn, "q", "young")
    future = value(
        conn,
        "select pg_snapshot_xmax(tick_snapshot)::text::bigint from pgque.tick "
        "order by tick_id desc limit 1",
    )
    assert transaction_id(conn) < future
    assert payloads(drain(conn, "q", "c")) == ["unseen", "young"]


def test_grants_for_a_queue_are_restored(old, restore):
    """The role must exist; its rights and its consumers are part of the dump."""
    old.execute("do $$ begin create role shop; exception when duplicate_object then null; end $$")
    for privilege in ("produce", "consume"):
        value(old, "select pgque.grant_queue('shop', 'q', %s)", privilege)
    value(old, "select pgque.create_queue('other')")
    old.execute("set role shop")
    subscribe(old, "q", "own")
    sent = send(old, "q")

    conn = restore()
    grants = "select * from pgque.queue_grants()"
    old.execute("reset role")
    assert conn.execute(grants).fetchall() == old.execute(grants).fetchall() != []
    tick(conn, "q")
    conn.execute("grant pgque_user to shop")  # roles belong to the cluster, not to the dump
    conn.execute("set role shop")
    batch = receive(conn, "q", "own")
    assert ids(batch) == [sent]
    assert ack(conn, batch) == 1
    with refused("PQ001", "queue not found"):
        send(conn, "other")
    with refused("PQ002", "Not subscriber"):
        receive(conn, "q", "c")
    old.execute("drop owned by shop")
    conn.execute("reset role")
    conn.execute("drop owned by shop")
