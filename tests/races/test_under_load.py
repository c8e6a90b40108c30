"""All functions under concurrent load, on real connections with real commits (all of sql/)."""

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable

import psycopg
import pytest
from psycopg import IsolationLevel

from tests.fix_engine import (
    Connection,
    Message,
    Thread,
    ack,
    configure,
    drain,
    ids,
    nack,
    receive,
    receive_coop,
    send,
    send_many,
    subscribe,
    tick,
    value,
)
from tests.races.done import SECONDS, Done

SEED = int(os.environ.get("PGQUE_TEST_SEED", "0")) or random.randrange(10**6)


@pytest.fixture
def done() -> Done:
    return Done()


class Producer:
    """Sends in transactions of every kind, and records the committed events."""

    def __init__(self, conn: Connection, queue: str, number: int, done: Done) -> None:
        self.conn = conn
        self.queue = queue
        self.random = random.Random(f"{SEED} {number}")
        self.number = number
        self.done = done
        self.count = itertools.count()
        self.committed: list[int] = []

    def run(self) -> list[int]:
        while not self.done():
            self.conn.isolation_level = self.random.choice(
                [
                    IsolationLevel.READ_COMMITTED,
                    IsolationLevel.REPEATABLE_READ,
                    IsolationLevel.SERIALIZABLE,
                ]
            )
            try:
                self.transaction()
            except psycopg.errors.SerializationFailure:
                self.conn.rollback()
        return self.committed

    def transaction(self) -> None:
        if self.random.random() < 0.3:
            value(self.conn, "select pg_current_xact_id()")
        sent: list[int] = []
        for _ in range(self.random.choice([1, 1, 1, 3, 10])):
            self.step(sent)
            if self.random.random() < 0.05:
                time.sleep(self.random.choice([0.001, 0.01, 0.1, 0.5]))
        end = self.random.random()
        if end < 0.2:
            self.conn.rollback()
            return
        if end < 0.3:
            self.prepare(sent)
            return
        self.conn.commit()
        self.committed += sent
        self.done.times["sent"] += len(sent)

    def step(self, sent: list[int]) -> None:
        kind = self.random.random()
        if kind < 0.2:
            sent += send_many(self.conn, self.queue, self.random.randint(1, 5))
        elif kind < 0.4:
            self.conn.execute("savepoint s")
            inner = [send(self.conn, self.queue)]
            if self.random.random() < 0.5:
                self.conn.execute("rollback to savepoint s")
            else:
                sent += inner
        else:
            sent.append(send(self.conn, self.queue))

    def prepare(self, sent: list[int]) -> None:
        name = f"{self.queue} {self.number} {next(self.count)}"
        self.conn.execute(f"prepare transaction '{name}'".encode())
        if self.random.random() < 0.3:
            time.sleep(0.05)
        self.conn.autocommit = True
        if self.random.random() < 0.3:
            self.conn.execute(f"rollback prepared '{name}'".encode())
        else:
            self.conn.execute(f"commit prepared '{name}'".encode())
            self.committed += sent
        self.conn.autocommit = False


def keep_ticking(conn: Connection, queue: str, one: bool, done: Done) -> int:
    ticks = 0
    while not done():
        ticked = bool(tick(conn, queue) if one else value(conn, "select pgque.ticker()"))
        ticks += ticked
        done.times["ticked"] += ticked
    return ticks


def keep_rotating(conn: Connection, queue: str, done: Done) -> int:
    rotated = 0
    while not done():
        rotated += value(conn, "select pgque.maint_rotate_tables_step1(%s)", queue)
        conn.execute("select setval('pgque.ledger_kept_bytes', 0)")
        rotated += value(conn, "select pgque.maint_rotate_ledger()")
        done.times["rotated"] = rotated
        time.sleep(0.01)
    return rotated


def keep_receiving(
    conn: Connection, get: Callable[[Connection], list[Message]], seed: int, done: Done
) -> list[int]:
    """Receive and ack, sometimes roll back. Return the ids that were acked."""
    dice = random.Random(f"{SEED} {seed}")
    got: list[int] = []
    idle = False
    while not (idle and done()):
        batch = get(conn)
        idle = not batch
        if not batch:
            conn.rollback()
            continue
        assert ids(batch) == sorted(set(ids(batch))), "a batch is not ordered by ev_id"
        if dice.random() < 0.3:
            conn.commit()
        assert ack(conn, batch) == 1
        if dice.random() < 0.1:
            conn.rollback()
        else:
            conn.commit()
            got += ids(batch)
    return got


def test_p1_p2_p4_p5_every_event_is_delivered_once_under_concurrent_load(
    connect, autoconn, queue, done
):
    """Eight producers use rollbacks, savepoints and prepared transactions at every isolation level.

    Four tickers run, consumers split, merge and share windows, and the log and the ledger rotate.
    """
    done.needed = {"sent": 100, "ticked": 10, "rotated": 3}
    subscribe(autoconn, queue, "whole", "cut", "merged")
    for member in "ab":
        value(autoconn, "select pgque.subscribe_subconsumer(%s, 'group', %s)", queue, member)
    configure(autoconn, queue, rotation_period="1 microsecond")
    autoconn.execute("update pgque.config set ledger_max_bytes = 0")
    autoconn.execute("select setval('pgque.ledger_kept_bytes', 0)")
    producers = [Producer(connect(), queue, n, done) for n in range(8)]
    sending = [Thread(producer.run) for producer in producers]
    ticking = [Thread(keep_ticking, connect(autocommit=True), queue, n < 2, done) for n in range(4)]
    rotating = Thread(keep_rotating, connect(autocommit=True), queue, done)
    ways: dict[str, list[Callable[[Connection], list[Message]]]] = {
        "whole": [lambda c: receive(c, queue, "whole", 1_000_000)],
        "cut": [lambda c: receive(c, queue, "cut", 7)],
        "merged": [lambda c: receive(c, queue, "merged", 50, merged=True)],
        "group": [
            lambda c: receive_coop(c, queue, "group", "a", 13, "1 hour"),
            lambda c: receive_coop(c, queue, "group", "b", 40, "1 hour", merged=True),
        ],
    }
    receiving = {
        name: [Thread(keep_receiving, connect(), get, n, done) for n, get in enumerate(gets)]
        for name, gets in ways.items()
    }
    sent = [event_id for thread in sending for event_id in thread.outcome(SECONDS + 60)]
    assert sum(thread.outcome(60) for thread in ticking) > 10
    assert rotating.outcome(60) > 3
    got = {
        name: [event_id for thread in threads for event_id in thread.outcome(60)]
        for name, threads in receiving.items()
    }
    while tick(autoconn, queue):
        pass
    for name in ("whole", "cut", "merged"):
        got[name] += ids(drain(autoconn, queue, name, 500))
    while batch := receive_coop(autoconn, queue, "group", "a"):
        ack(autoconn, batch)
        got["group"] += ids(batch)
    assert len(sent) == len(set(sent)) > 100, f"seed {SEED}"
    for name, received in got.items():
        lost = set(sent) - set(received)
        twice = [event_id for event_id, count in Counter(received).items() if count > 1]
        undone = set(received) - set(sent)
        assert (lost, twice, undone) == (set(), [], set()), f"{name}, seed {SEED}"


def test_p3_p9_members_that_die_take_over_or_return_as_zombies_handle_each_event_once(
    connect, autoconn, queue, done
):
    """A handler's write in the transaction of its ack happens once for every event."""
    done.needed = {"zombies": 0}
    for member in "abcd":
        value(autoconn, "select pgque.subscribe_subconsumer(%s, 'group', %s)", queue, member)
    configure(autoconn, queue, max_retries=1000)
    autoconn.execute(
        "create table done_work (msg_id bigint, retry int, primary key (msg_id, retry))"
    )

    def produce(conn: Connection) -> list[int]:
        sent = []
        while not done():
            sent += send_many(conn, queue, 20)
            value(conn, "select pgque.ticker()")
            value(conn, "select pgque.maint_retry_events()")
            time.sleep(0.02)
        return sent

    def work(conn: Connection, member: str) -> tuple[int, int]:
        """Handle messages, sometimes pause for longer than the dead interval, sometimes crash."""
        dice = random.Random(f"{SEED} {member}")
        zombie = nacked = 0
        idle = False
        while not (idle and done()):
            with conn.transaction():
                batch = receive_coop(conn, queue, "group", member, 9, "20 milliseconds")
            idle = not batch
            if not batch:
                continue
            if dice.random() < 0.1:
                time.sleep(0.03)
            fate = dice.random()
            if fate < 0.1:
                continue  # crash before the handler
            try:
                with conn.transaction():
                    for message in batch:
                        if dice.random() < 0.02:
                            nack(conn, message)
                            nacked += 1
                            continue
                        conn.execute(
                            "insert into done_work values (%s, %s)",
                            [message.msg_id, message.retry_count],
                        )
                    if fate < 0.2:
                        raise psycopg.Rollback
                    if ack(conn, batch) == 0:
                        zombie += 1
                        done.times["zombies"] += 1
                        raise psycopg.Rollback
            except psycopg.Error as error:
                # Its batch is void, and the member that took it over may have done the work.
                assert error.sqlstate in ("PQ003", "23505"), error
                assert ack(conn, batch) == 0
                conn.commit()
                zombie += 1
                done.times["zombies"] += 1
        return zombie, nacked

    sending = Thread(produce, connect(autocommit=True))
    working = [Thread(work, connect(), member) for member in "abcd"]
    sent = sending.outcome(SECONDS + 60)
    zombies = sum(thread.outcome(60)[0] for thread in working)
    while True:
        value(autoconn, "select pgque.maint_retry_events()")
        tick(autoconn, queue)
        batch = receive_coop(autoconn, queue, "group", "a", 1000, "0")
        if not batch:
            break
        for message in batch:
            autoconn.execute(
                "insert into done_work values (%s, %s)", [message.msg_id, message.retry_count]
            )
        assert ack(autoconn, batch) == 1
    handled = value(autoconn, "select count(distinct msg_id) from done_work")
    assert handled == len(sent), f"seed {SEED}"
    assert value(autoconn, "select count(*) from done_work") == len(sent), f"seed {SEED}"
    assert zombies > 0


def test_p5_two_consumers_of_one_name_never_hold_the_same_message(
    connect, autoconn, queue, consumer, done
):
    autoconn.execute("create table at_work (msg_id bigint primary key)")

    def produce(conn: Connection) -> list[int]:
        sent = []
        while not done():
            sent += send_many(conn, queue, 3)
            tick(conn, queue)
            time.sleep(0.005)
        return sent

    def work(conn: Connection, merged: bool) -> list[int]:
        got = []
        idle = False
        while not (idle and done()):
            try:
                with conn.transaction():
                    batch = receive(conn, queue, consumer, 5, merged=merged)
                    idle = not batch
                    if batch:
                        # A second holder would wait for this key and then fail on it.
                        with conn.cursor() as cursor:
                            cursor.executemany(
                                "insert into at_work values (%s)", [[n] for n in ids(batch)]
                            )
                        assert ack(conn, batch) == 1
                        got += ids(batch)
            except psycopg.errors.LockNotAvailable:
                assert merged
        return got

    sending = Thread(produce, connect(autocommit=True))
    working = [Thread(work, connect(), merged) for merged in (False, True, True)]
    sent = sending.outcome(SECONDS + 60)
    got = [event_id for thread in working for event_id in thread.outcome(60)]
    got += ids(drain(autoconn, queue, consumer))
    assert sorted(got) == sent


def test_p5_queues_and_subscriptions_can_come_and_go_under_load(connect, autoconn, queue, done):
    """There is no deadlock, and every error says that the queue or the consumer is gone."""
    gone = {"PQ001", "PQ002", "PQ003", "PQ007", "PQ008", "PQ009", "PQ012"}
    gone |= {"PQ011"}  # seek to a time before the queue was created

    def calls(conn: Connection, number: int) -> dict[str, int]:
        dice = random.Random(f"{SEED} {number}")
        errors: Counter[str] = Counter()
        batch: list[Message] = []
        while not done():
            name = dice.choice(["one", "two"])
            reader = dice.choice(["c", "d", "g"])
            step = dice.choice(
                [
                    lambda: value(conn, "select pgque.create_queue(%s)", name),
                    lambda: value(conn, "select pgque.drop_queue(%s, true)", name),
                    lambda: value(conn, "select pgque.subscribe(%s, %s)", name, reader),
                    lambda: value(conn, "select pgque.unsubscribe(%s, %s)", name, reader),
                    lambda: value(conn, "select pgque.register_subconsumer(%s, 'g', 'm')", name),
                    lambda: value(
                        conn, "select pgque.unregister_subconsumer(%s, 'g', 'm', 1)", name
                    ),
                    lambda: batch.extend(receive_coop(conn, name, "g", "m", 5, "0")),
                    lambda: send(conn, name),
                    lambda: tick(conn, name),
                    lambda: value(conn, "select pgque.ticker()"),
                    lambda: value(conn, "select pgque.maint()"),
                    lambda: batch.extend(receive(conn, name, reader, 3)),
                    lambda: nack(conn, batch[-1]) if batch else None,
                    lambda: ack(conn, [batch.pop()]) if batch else None,
                    lambda: value(conn, "select pgque.seek(%s, %s, now())", name, reader),
                    lambda: value(conn, "select count(*) from pgque.get_consumer_info()"),
                ]
            )
            try:
                step()
            except psycopg.Error as error:
                errors[str(error.sqlstate)] += 1
                assert error.sqlstate in gone, f"seed {SEED}: {error.sqlstate}: {error}"
        return errors

    autoconn.execute("set deadlock_timeout = '100ms'")
    threads = [Thread(calls, connect(autocommit=True), n) for n in range(6)]
    for thread in threads:
        thread.outcome(SECONDS + 60)
    for table in ("retry_queue", "dead_letter", "subscriber"):
        column = {
            "retry_queue": "ev_queue",
            "dead_letter": "dl_queue_id",
            "subscriber": "sub_queue",
        }
        orphans = (
            f"select count(*) from pgque.{table} "
            f"where {column[table]} not in (select queue_id from pgque.queue)"
        )
        assert value(autoconn, orphans) == 0, f"seed {SEED}"
