"""A promoted subscriber of logical replication, whose sequences were not replicated."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from pgque.install import install
from tests.fix_engine import (
    Connection,
    ack,
    column,
    configure,
    drain,
    ids,
    nack,
    notices,
    receive,
    receive_coop,
    rotate,
    rotate_ledger,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)
from tests.running import eventually
from tests.upgrade.cluster import Cluster
from tests.upgrade.test_move import ROLES, use_up_transaction_ids

BEHIND = (
    "select exists (select from pg_stat_replication where application_name = 'replica') "
    "and not exists (select from pg_stat_replication where application_name = 'replica' "
    "and (replay_lsn < %s::pg_lsn or state <> 'streaming'))"
)


@pytest.fixture(params=["older", "younger"])
def pair(request, new_cluster: Callable[..., Cluster]) -> Iterator[list[Cluster]]:
    """Return a publisher and a subscriber; one of them has used more transaction ids."""
    clusters = [new_cluster(name).init().start(wal_level="logical") for name in ("one", "two")]
    with clusters[request.param == "older"].connect() as admin:
        use_up_transaction_ids(admin, 5000)
    return clusters


def replicate(pair: list[Cluster]) -> Connection:
    """Copy the structure to the second cluster and subscribe it."""
    publisher, subscriber = pair
    file = subscriber.folder / "structure.sql"
    file.write_bytes(b"")
    file.chmod(0o666)
    with publisher.connect() as conn:
        conn.execute("create publication everything for all tables")
    # The dump contains the publication, so the subscriber also publishes a repair's deletions.
    publisher.run("pg_dump", "--schema-only", f"--file={file}", publisher.dsn())
    conn = subscriber.connect()
    for role in ROLES:
        conn.execute(
            f"do $$ begin create role {role}; "
            "exception when duplicate_object then null; end $$".encode()
        )
    subscriber.run("psql", "-v", "ON_ERROR_STOP=1", "-q", subscriber.dsn(), "-f", file)
    conn.execute(
        f"create subscription replica connection '{publisher.dsn()}' publication everything"
    )
    synchronised = "select bool_and(srsubstate = 'r') from pg_subscription_rel"
    eventually(lambda: value(conn, synchronised), "the first copy")
    return conn


def catch_up(publisher: Connection) -> None:
    here = value(publisher, "select pg_current_wal_insert_lsn()::text")
    eventually(lambda: value(publisher, BEHIND, here), "replication to the subscriber")


@pytest.mark.parametrize("structure", ["before", "during"])
def test_p1_p3_p9_a_promoted_subscriber_continues(pair, structure):
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(pair[0].connect())
        install(old)
        value(old, "select pgque.create_queue('q')")
        configure(old, "q", max_retries=0)
        subscribe(old, "q", "c", "behind")
        for member in "ab":
            value(old, "select pgque.register_subconsumer('q', 'g', %s)", member)
        if structure == "before":
            conn = stack.enter_context(replicate(pair))
        sent = send_many(old, "q", 6)
        tick(old, "q")
        batch = receive(old, "q", "c", 4)
        nack(old, batch[0])
        configure(old, "q", max_retries=5)
        nack(old, batch[1])
        ack(old, batch)
        value(old, "select pgque.maint_retry_events()")
        piece = receive_coop(old, "q", "g", "a", 2)
        assert rotate_ledger(old)
        sent += send_many(old, "q", 3)
        tick(old, "q")
        if structure == "during":
            conn = stack.enter_context(replicate(pair))
        held = receive(old, "q", "c", 3)
        unticked = send_many(old, "q", 2)
        catch_up(old)
        last = held[0].batch_id
        pair[0].stop("immediate")
        conn.execute("alter subscription replica disable")
        conn.execute("alter subscription replica set (slot_name = none)")
        conn.execute("drop subscription replica")

        heard = notices(conn)
        young = [send(conn, "q", f"young {n}") for n in range(3)]
        assert young == [1, 2, 3]
        value(conn, "select pgque.maint()")
        settle(conn, "q")
        assert [text for text in heard if "not rebased" in text] == []
        behind = drain(conn, "q", "behind")
        assert sorted(ids(behind))[: len(sent) + 2] == [*sent, *unticked]
        new = sorted(set(ids(behind)) - {*sent, *unticked})
        assert [m.payload for m in behind if m.msg_id in new] == ["young 0", "young 1", "young 2"]
        assert receive(conn, "q", "c", 3) == held
        assert ack(conn, held) == 1
        rest = drain(conn, "q", "c", 3)
        assert min(message.batch_id for message in rest) > last
        done = set(ids([batch[0], *batch[2:], *held]))
        assert sorted(ids(rest)) == sorted({*sent, *unticked, *new} - done)
        assert receive_coop(conn, "q", "g", "a", 2) == piece
        assert value(conn, "select pgque.create_queue('another')") == 1
        for _ in range(3):
            send(conn, "q")
            for name in ("behind", "c"):
                assert len(drain(conn, "q", name)) == 1
            rotate(conn, "q")
            rotate_ledger(conn)
        assert len(column(conn, "select 1 from pgque.dead_letter")) == 1
