"""Transaction ids past 2^31, 2^32 and 2^62, where the 32-bit ids of PostgreSQL's rows wrap."""

from collections.abc import Callable

import psycopg
import pytest

from pgque.install import install
from tests.fix_engine import (
    Connection,
    ack,
    drain,
    ids,
    nack,
    receive,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)
from tests.recording import record
from tests.upgrade.backlog import Backlog
from tests.upgrade.cluster import Cluster

SEGMENT = 1 << 20  # transactions in one file of pg_xact
FARTHEST = 3 << 29  # PostgreSQL refuses ids more than 2^31 past the oldest one
SPAN = 150


def next_id(conn: Connection) -> int:
    return value(conn, "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")


def jump(cluster: Cluster, to: int) -> None:
    """Freeze everything, and set the id of the cluster's next transaction."""
    with cluster.connect() as conn:
        conn.execute("alter database template0 allow_connections true")
    for database in ("postgres", "template0", "template1"):
        with cluster.connect(database) as conn:
            conn.execute("vacuum freeze")
    cluster.stop()
    epoch, xid = divmod(to, 1 << 32)
    segment = cluster.data / "pg_xact" / f"{xid // SEGMENT:04X}"
    if not segment.exists():
        segment.write_bytes(bytes(SEGMENT // 4))
        cluster.own(segment)
    cluster.run("pg_resetwal", "-f", "-x", xid, "-e", epoch, "-D", cluster.data)
    cluster.start()


def go_near(cluster: Cluster, boundary: int) -> None:
    """Jump to just before the boundary, in steps that PostgreSQL allows."""
    while True:
        with cluster.connect() as conn:
            now = next_id(conn)
        jump(cluster, min(boundary - SPAN, now + FARTHEST))
        if now + FARTHEST >= boundary - SPAN:
            return


def cross(cluster: Cluster, boundary: int) -> dict[int, str]:
    """Send, tick, rotate and receive across the boundary, with a transaction open across it."""
    sent: dict[int, str] = {}
    got: list[int] = []
    slow = psycopg.connect(cluster.dsn())
    with cluster.connect() as conn:
        settle(conn, "q")
        subscribe(conn, "q", f"across {boundary}")
        assert next_id(conn) < boundary
        sent[send(slow, "q", "open across it")] = "open across it"
        n = 0
        while next_id(conn) < boundary + SPAN or n % 10:
            n += 1
            sent[send(conn, "q", n)] = str(n)
            if n % 10 == 0:
                tick(conn, "q")
                for batch in iter(lambda: receive(conn, "q", f"across {boundary}", 4), []):
                    got += ids(batch)
                    assert ack(conn, batch) == 1
            if n % 50 == 0:
                value(conn, "select pgque.maint()")
                value(conn, "select pgque.maint_rotate_tables_step1('q')")
        slow.commit()
        slow.close()
        settle(conn, "q")
        got += ids(drain(conn, "q", f"across {boundary}"))
        assert sorted(got) == sorted(sent)
        value(conn, "select pgque.unsubscribe('q', %s)", f"across {boundary}")
    return sent


def nack_in_a_large_batch(conn: Connection) -> dict[int, str]:
    """Nack in a large batch, where a binary search over transaction ids finds the event."""
    settle(conn, "q")
    subscribe(conn, "q", "large")
    sent = [send(conn, "q", "first"), *send_many(conn, "q", 2500), send(conn, "q", "last")]
    settle(conn, "q")
    batch = receive(conn, "q", "large", 5000)
    assert ids(batch) == sent
    for message in (batch[0], batch[1300], batch[-1]):
        nack(conn, message)
    assert ack(conn, batch) == 1
    value(conn, "select pgque.maint_retry_events()")
    settle(conn, "q")
    again = drain(conn, "q", "large")
    assert sorted(ids(again)) == sorted([sent[0], sent[1300], sent[-1]])
    value(conn, "select pgque.unsubscribe('q', 'large')")
    return {message.msg_id: str(message.payload) for message in batch}


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster("cluster").init().start(autovacuum="off")


def test_p1_p3_traffic_and_a_backlog_survive_transaction_ids_past_2_31_and_2_32(cluster):
    install(cluster.dsn())
    backlog = Backlog(cluster.dsn())
    backlog.leave()
    for boundary in (1 << 31, 1 << 32):
        go_near(cluster, boundary)
        backlog.sent |= cross(cluster, boundary)
    with cluster.connect() as conn:
        backlog.sent |= nack_in_a_large_batch(conn)
        figures = backlog.check(conn)
        record(conn, "upgrades", "xids past 2^31 and 2^32", "tests/upgrade/test_xids.py", figures)


def test_p1_p3_transaction_ids_of_63_bits_work(cluster):
    """Twice such an id overflows a bigint."""
    install(cluster.dsn())
    backlog = Backlog(cluster.dsn())
    backlog.leave()
    jump(cluster, (3 << 61) + 5000)
    with cluster.connect() as conn:
        backlog.sent |= nack_in_a_large_batch(conn)
        figures = backlog.check(conn)
        record(conn, "upgrades", "xids past 2^62", "tests/upgrade/test_xids.py", figures)
