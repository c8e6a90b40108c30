"""Consumers as members of a cooperative group."""

import threading
import time

import pytest

import pgque
from pgque import Consumer, Message, PgqueClient
from tests.running import PATIENCE, eventually, process, running


@pytest.fixture
def client(dsn, queue):
    with pgque.connect(dsn, autocommit=True) as client:
        client.subscribe_subconsumer(queue, "group", "first")
        yield client


@pytest.fixture
def member(dsn, queue):
    """Create a member of the group."""

    def member(name: str, **options) -> Consumer:
        options = {"max_messages": 10, "retry_after": 0, **options}
        return Consumer(dsn, queue=queue, name="group", subconsumer=name, **options)

    return member


def test_members_handle_messages_at_the_same_time(client, member, queue):
    together = threading.Barrier(3, timeout=PATIENCE)
    consumers = [member(f"m{n}", max_messages=1) for n in range(3)]
    met: list[int] = []
    for consumer in consumers:
        consumer.on("default")(lambda msg: met.append(together.wait()))
    client.send_batch(queue, "default", range(3))
    with running(consumers[0]), running(consumers[1]), running(consumers[2]):
        eventually(lambda: len(met) == 3 or together.broken)
    assert sorted(met) == [0, 1, 2]


def test_p1_every_message_is_given_to_one_member(client, member, queue):
    got: list[tuple[str, int]] = []
    consumers = {name: member(name) for name in ("a", "b", "c")}
    for name, consumer in consumers.items():
        consumer.on("default")(lambda msg, name=name: got.append((name, msg.msg_id)))
    ids = []
    with running(consumers["a"]), running(consumers["b"]), running(consumers["c"]):
        for _ in range(20):
            ids += client.send_batch(queue, "default", range(25))
        eventually(lambda: len(got) >= len(ids))
    assert sorted(msg_id for _, msg_id in got) == ids


def test_p9_the_batch_of_a_killed_member_is_taken_over(dsn, client, member, queue, autoconn):
    autoconn.execute("create table handled (id bigint, member text)")
    ids = client.send_batch(queue, "default", range(10))
    client.ticker(queue)
    script = """
        import os, signal, sys
        import pgque

        consumer = pgque.Consumer(sys.argv[1], queue=sys.argv[2], name="group", subconsumer="dies")

        @consumer.on("default")
        def handle(msg, client):
            client.conn.execute("insert into handled values (%s, 'dies')", [msg.msg_id])
            if msg.json() == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        consumer.start()
    """
    with process(script, dsn, queue) as child:
        assert child.wait(PATIENCE) == -9
    heir = member("heir", dead_interval=0.5)

    @heir.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("insert into handled values (%s, 'heir')", [msg.msg_id])

    with running(heir):
        eventually(lambda: autoconn.execute("select count(*) from handled").fetchone() == (10,))
    rows = autoconn.execute("select id, member from handled order by id").fetchall()
    assert rows == [(i, "heir") for i in ids]


def test_p9_a_member_that_was_taken_over_rolls_back_its_writes(
    client, member, queue, autoconn, caplog
):
    autoconn.execute("create table handled (id bigint, member text)")
    [sent] = client.send_batch(queue, "default", ["x"])
    zombie, heir = member("zombie"), member("heir", dead_interval=0.3)
    entered, taken_over = threading.Event(), threading.Event()

    @zombie.on("default")
    def sleeps(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("insert into handled values (%s, 'zombie')", [msg.msg_id])
        entered.set()
        taken_over.wait(PATIENCE)  # without dead_interval it sends no sign of life

    @heir.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("insert into handled values (%s, 'heir')", [msg.msg_id])

    handled = "select id, member from handled"
    with running(zombie):
        assert entered.wait(PATIENCE)
        with running(heir):
            eventually(lambda: autoconn.execute(handled).fetchall())
        taken_over.set()
        eventually(lambda: "was taken over" in caplog.text)
    assert "transaction in progress" not in caplog.text
    assert autoconn.execute(handled).fetchall() == [(sent, "heir")]


def test_a_working_member_sends_signs_of_life(client, member, queue):
    client.send(queue, "x")
    slow, heir = member("slow", dead_interval=3), member("heir", dead_interval=3)
    got: list[str] = []

    @slow.on("default")
    def works(msg: Message) -> None:
        got.append("slow")
        time.sleep(5)

    heir.on("default")(lambda msg: got.append("heir"))
    with running(slow):
        eventually(lambda: got)
        with running(heir):
            eventually(lambda: not slow._at_work)
    assert got == ["slow"]


def test_stop_in_a_batch_leaves_the_rest_to_the_member(client, member, queue):
    client.send_batch(queue, "default", range(10))
    client.ticker(queue)
    got: list[int] = []
    consumer = member("first")

    @consumer.on("default")
    def handle(msg: Message) -> None:
        got.append(msg.json())
        if len(got) == 4:
            consumer.stop()

    with running(consumer) as thread:
        thread.join()
    rest = client.receive_coop(queue, "group", "first")
    assert [m.json() for m in rest] == [4, 5, 6, 7, 8, 9]


def test_a_missing_group_and_member_are_created(dsn, queue, autoconn):
    got: list[Message] = []
    consumer = Consumer(dsn, queue=queue, name="new_group", subconsumer="only")
    consumer.on("default")(got.append)
    with running(consumer):
        eventually(lambda: consumer._received_once)
        autoconn.execute("select pgque.send(%s, 'x'::text)", [queue])
        eventually(lambda: len(got) == 1)


def test_as_member_copies_everything_but_the_name(client, member, queue):
    got: list[str] = []
    first = member("m-1")
    first.on("default")(lambda msg: got.append(msg.payload))
    second = first.as_member("m-2")
    assert (first.subconsumer, second.subconsumer) == ("m-1", "m-2")
    first.stop()  # must not stop the second
    with running(second):
        client.send(queue, "x")
        eventually(lambda: got == ["x"])


def test_as_member_raises_for_a_consumer_outside_a_group(dsn, queue):
    alone = Consumer(dsn, queue=queue, name="alone")
    assert alone.subconsumer is None
    with pytest.raises(pgque.PgqueInvalidArgument, match="no member of a group"):
        alone.as_member("m-2")


def test_a_copied_member_stops_and_logs_under_its_own_name(client, member, queue, caplog):
    first = member("first")
    second = first.as_member("second")
    got: list[int] = []

    @first.on("default")
    def handle(msg: Message) -> None:
        got.append(msg.msg_id)
        second.stop()
        raise ValueError

    client.send_batch(queue, "default", range(5))
    with running(second):
        eventually(lambda: got)
    assert len(got) == 1
    [said] = [record for record in caplog.records if "handler failed" in record.getMessage()]
    assert vars(said)["subconsumer"] == "second"
    assert f"{queue}/group.second" in said.getMessage()
