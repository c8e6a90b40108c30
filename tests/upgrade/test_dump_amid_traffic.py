"""A dump made while producers send, a ticker ticks and a consumer acks."""

import contextlib
import itertools
import threading
from collections import Counter

import psycopg

import pgque
from pgque import Consumer, PgqueClient, Ticker
from pgque.install import install
from tests.fix_engine import Thread, column, drain, ids, settle
from tests.recording import record
from tests.running import eventually, running
from tests.upgrade.test_move import restore, use_up_transaction_ids

OF_ONE_TRANSACTION = 3


class Producer:
    """Sends in transactions of three events. Every fifth transaction rolls back."""

    def __init__(self, dsn: str, name: str, enough: threading.Event) -> None:
        self.committed: list[int] = []
        self._dsn, self._name, self._enough = dsn, name, enough

    def run(self) -> None:
        with pgque.connect(self._dsn) as client:
            for n in itertools.count():
                if self._enough.is_set():
                    return
                sent = [client.send("q", f"{self._name} {n}") for _ in range(OF_ONE_TRANSACTION)]
                if n % 5 == 4:
                    client.conn.rollback()
                else:
                    client.conn.commit()
                    self.committed += sent


def test_p1_p2_p3_a_dump_during_traffic_loses_and_repeats_nothing(new_cluster):
    source = new_cluster("old").init().start()
    target = new_cluster("new").init().start()
    with source.connect() as admin:
        use_up_transaction_ids(admin, 5000)
        admin.execute("create database origin")
    dsn = source.dsn("origin")
    install(dsn)
    with pgque.connect(dsn, autocommit=True) as client:
        client.create_queue("q")
        client.subscribe("q", "c")
        client.subscribe("q", "behind")
    handled: list[pgque.Message] = []
    consumer = Consumer(dsn, queue="q", name="c", max_messages=50)
    consumer.on("*")(handled.append)
    enough = threading.Event()
    producers = [Producer(dsn, name, enough) for name in ("one", "two", "three")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(Ticker(dsn)))
        stack.enter_context(running(consumer))
        threads = [Thread(producer.run) for producer in producers]
        try:
            eventually(lambda: len(handled) > 500, "traffic")
            committed = {ev_id for producer in producers for ev_id in producer.committed}
            done = list(handled)
            last = done[-1].batch_id
            eventually(lambda: handled[-1].batch_id > last, "the ack of the handled messages")
            conn = restore(source, target, format_="custom")
            # The dump's snapshot is older than this point.
            perhaps = set(ids(list(handled)))
        finally:
            enough.set()
        for thread in threads:
            thread.outcome()
    with conn:
        check(conn, committed, set(ids(done)), perhaps)


def check(conn: psycopg.Connection, committed: set[int], done: set[int], perhaps: set[int]) -> None:
    logged = column(conn, "select ev_id from pgque.event_1 order by ev_id")
    whole = Counter(column(conn, "select ev_data from pgque.event_1"))
    assert set(whole.values()) == {OF_ONE_TRANSACTION}
    assert committed <= set(logged)
    after = PgqueClient(conn).send("q", "after the restore")
    settle(conn, "q")
    behind = ids(drain(conn, "q", "behind", 70))
    assert sorted(behind) == [*logged, after]
    rest = ids(drain(conn, "q", "c", 70))
    figures = {
        "delivered": len(behind) + len(rest),
        "lost": len(set(logged) - perhaps - set(rest)),
        "delivered twice": len(rest) - len(set(rest) - done),
    }
    assert (figures["lost"], figures["delivered twice"]) == (0, 0)
    tests = "tests/upgrade/test_dump_amid_traffic.py"
    record(conn, "upgrades", "pg_dump during traffic", tests, figures)
