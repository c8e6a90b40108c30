"""A restore is noticed under any identity of the cluster, whichever call comes first."""

import psycopg
import pytest

from pgque.install import install
from tests.fix_engine import (
    ack,
    column,
    drain,
    ids,
    nack,
    notices,
    payloads,
    receive,
    receive_coop,
    rotate,
    rotate_ledger,
    send,
    send_many,
    subscribe,
    tick,
    value,
)
from tests.fix_restore import transaction_id, use_up_transaction_ids


def pretend(conn, cluster: str) -> None:
    """Give the cluster the old one's identifier, or hide its identifier."""
    if cluster == "clone":
        conn.execute(
            "create or replace function pgque._cluster_id() returns bigint language sql as "
            f"'select {value(conn, 'select cluster_id from pgque.config')}::bigint'"
        )
    elif cluster == "hidden":
        conn.execute(
            "create or replace function pgque._cluster_id() returns bigint "
            "language sql as 'select null::bigint'"
        )
        conn.execute("update pgque.config set cluster_id = null")


def same_tables(conn) -> None:
    """Give the restored tables the oids of the old ones, which can happen by chance."""
    conn.execute("update pgque.config set table_id = 'pgque.config'::regclass")


CALLS = {
    "retries": lambda conn: value(conn, "select pgque.maint_retry_events()"),
    "rotation": lambda conn: rotate(conn, "q"),
    "ledger": lambda conn: value(conn, "select pgque.maint_rotate_ledger()"),
    "maint": lambda conn: value(conn, "select pgque.maint()"),
    "ticker": lambda conn: value(conn, "select pgque.ticker()"),
}


@pytest.mark.parametrize("first", CALLS)
@pytest.mark.parametrize("oids", ["other oids", "same oids"])
@pytest.mark.parametrize("cluster", ["clone", "hidden"])
def test_p1_retries_and_new_events_arrive_whichever_call_is_first(
    old, restore, cluster, oids, first
):
    sent = send_many(old, "q", 4)
    tick(old, "q")
    batch = receive(old, "q", "c")
    for message in batch[:2]:
        nack(old, message)
    ack(old, batch)
    conn = restore()
    assert transaction_id(conn) < transaction_id(old)
    pretend(conn, cluster)
    if oids == "same oids":
        same_tables(conn)
    young = send(conn, "q", "young")
    CALLS[first](conn)
    value(conn, "select pgque.maint()")
    for _ in range(3):
        rotate(conn, "q")
        rotate_ledger(conn)
    assert sorted(ids(drain(conn, "q", "c"))) == [*sent[:2], young]
    assert drain(conn, "q", "c") == []


@pytest.mark.parametrize("cluster", ["clone", "hidden"])
def test_p1_reinstalling_after_a_restore_hides_nothing(old, restore, cluster):
    sent = send_many(old, "q", 2)
    tick(old, "q")
    batch = receive(old, "q", "c")
    nack(old, batch[0])
    ack(old, batch)
    conn = restore()
    install(conn)
    pretend(conn, cluster)
    value(conn, "select pgque.maint_retry_events()")
    tick(conn, "q")
    assert ids(drain(conn, "q", "c")) == sent[:1]


def test_p1_a_restore_into_the_same_cluster_is_noticed_without_a_restart(old, restore, own_server):
    sent = send_many(old, "q", 2)
    tick(old, "q")
    conn = restore(server=own_server)
    heard = notices(conn)
    value(conn, "select pgque.maint()")
    assert any("queue q was restored" in text for text in heard)
    assert ids(drain(conn, "q", "c")) == sent


def test_p1_a_clone_that_overtakes_the_old_cluster_before_its_first_tick_loses_nothing(
    old, restore
):
    """By the time of the first tick, the stored ticks are no longer in the future."""
    send(old, "q", "old")
    drain(old, "q", "c")
    conn = restore()
    pretend(conn, "clone")
    send(conn, "q", "young")
    use_up_transaction_ids(conn.info.dsn, 8000)
    assert transaction_id(conn) > transaction_id(old)
    assert payloads(drain(conn, "q", "c")) == ["young"]


def test_a_restart_needs_no_repair(new_server):
    server = new_server()
    install(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        value(conn, "select pgque.create_queue('q')")
        subscribe(conn, "q", "c")
        sent = send_many(conn, "q", 2)
        tick(conn, "q")
    server.restart("immediate")
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        heard = notices(conn)
        value(conn, "select pgque.maint()")
        assert ids(drain(conn, "q", "c")) == sent
        assert heard == []
        assert value(conn, "select checked_in = pg_postmaster_start_time() from pgque.config")


def test_a_database_copied_by_template_needs_no_repair(old, own_server):
    sent = send_many(old, "q", 2)
    drain(old, "q", "c")
    send(old, "q", "unseen")
    old.close()
    with psycopg.connect(own_server.dsn, autocommit=True) as admin:
        admin.execute("drop database if exists restored with (force)")
        admin.execute("create database restored template origin")
    with psycopg.connect(own_server.dsn_for("restored"), autocommit=True) as conn:
        heard = notices(conn)
        send(conn, "q", "new")
        assert payloads(drain(conn, "q", "c")) == ["unseen", "new"]
        assert heard == []
        assert sent


WAYS = ["receive", "member", "next_batch", "next_batch of a member"]


@pytest.mark.parametrize("way", WAYS)
def test_p3_new_events_are_not_delivered_both_before_and_after_the_first_tick(old, restore, way):
    """Transaction ids of new events can lie between those of old ticks."""
    value(old, "select pgque.register_subconsumer('q', 'g', 'a')")
    send(old, "q", "old")
    use_up_transaction_ids(old.info.dsn, 200)
    tick(old, "q")
    conn = restore()
    oldest = value(conn, "select max(ev_txid::text::bigint) from pgque.event_1")
    use_up_transaction_ids(conn.info.dsn, oldest - transaction_id(conn) + 50)
    assert transaction_id(conn) < transaction_id(old)
    send(conn, "q", "young")
    got: list[str | None] = []

    def take() -> None:
        name = "'q', 'g', 'a'" if "member" in way else "'q', 'c'"
        if way.startswith("next_batch"):
            batch = value(conn, f"select pgque.next_batch({name})")
            if batch is not None:
                got.extend(column(conn, "select ev_data from pgque.get_batch_events(%s)", batch))
                ack(conn, batch)
        else:
            messages = (receive_coop if "member" in way else receive)(
                conn, "q", *(["g", "a"] if "member" in way else ["c"])
            )
            got.extend(payloads(messages))
            if messages:
                ack(conn, messages)

    take()
    tick(conn, "q")
    for _ in range(6):
        take()
    assert got == ["old", "young"]
