"""The consumer: handlers, transactions, waking, arguments (pgque/consumer.py)."""

import contextlib
import logging
import math
import threading
import time
from datetime import timedelta

import psycopg
import pytest

import pgque
from pgque import Consumer, Message, PgqueClient
from tests.fix_pooler import directly
from tests.running import PATIENCE, eventually, process, running


def position_is_caught_up(client: PgqueClient, queue: str) -> bool:
    [info] = client.consumer_info(queue)
    return info.pending_events == 0 and info.current_batch is None


def test_a_handler_gets_the_messages_of_its_type(client, new, queue):
    got: list[tuple[str, object]] = []
    consumer = new()

    @consumer.on("order.created")
    def created(msg: Message) -> None:
        got.append(("created", msg.json()))

    @consumer.on("*")
    def other(msg: Message) -> None:
        got.append((msg.type, msg.json()))

    with running(consumer):
        client.send(queue, {"id": 1}, type="order.created")
        client.send(queue, {"id": 2}, type="order.paid")
        eventually(lambda: len(got) == 2)
    assert got == [("created", {"id": 1}), ("order.paid", {"id": 2})]


def test_p3_writes_of_a_handler_commit_with_the_ack(client, new, queue, autoconn):
    autoconn.execute("create table handled (id bigint)")
    consumer = new()

    @consumer.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("insert into handled values (%s)", [msg.msg_id])

    ids = [client.send(queue, n) for n in range(50)]
    with running(consumer):
        eventually(lambda: position_is_caught_up(client, queue))
    rows = autoconn.execute("select id from handled order by id").fetchall()
    assert [row[0] for row in rows] == ids


def test_only_the_failed_handler_is_rolled_back_and_its_message_redelivered(
    client, new, queue, autoconn
):
    autoconn.execute("create table handled (id bigint, attempt int)")
    consumer = new()
    bad: list[int] = []

    @consumer.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.conn.execute("insert into handled values (%s, %s)", [msg.msg_id, msg.retry_count])
        if msg.msg_id in bad and msg.retry_count < 2:
            raise ValueError("not yet")

    ids = client.send_batch(queue, "default", range(9))
    bad += [ids[0], ids[4]]
    with running(consumer):
        eventually(lambda: autoconn.execute("select count(*) from handled").fetchone() == (9,))
    rows = dict(autoconn.execute("select id, attempt from handled").fetchall())
    assert rows == {i: 2 if i in bad else 0 for i in ids}


def test_a_message_whose_handler_always_fails_becomes_a_dead_letter_with_the_reason(
    client, new, queue
):
    client.set_queue_config(queue, "max_retries", 1)
    consumer = new()

    @consumer.on("default")
    def handle(msg: Message) -> None:
        raise ValueError("no such order")

    with running(consumer):
        sent = client.send(queue, "x")
        eventually(lambda: client.dead_letters(queue))
    [dead] = client.dead_letters(queue)
    assert (dead.ev_id, dead.dl_reason, dead.ev_retry) == (sent, "ValueError: no such order", 1)


def test_a_failed_nack_leaves_its_message_unacked_and_the_others_are_handled(
    client, new, queue, autoconn
):
    autoconn.execute("create table handled (id bigint)")
    autoconn.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin raise exception 'no retries today'; end $$"
    )
    autoconn.execute(
        "create trigger refuse before insert on pgque.retry_queue execute function refuse()"
    )
    client.set_queue_config(queue, "max_retries", 1)
    consumer = new()
    seen: list[int] = []

    @consumer.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        seen.append(msg.json())
        client.conn.execute("insert into handled values (%s)", [msg.json()])
        if msg.json() == 1:
            raise ValueError("refused")

    with running(consumer):
        eventually(lambda: consumer._received_once)
        client.send_batch(queue, "default", range(3))
        eventually(lambda: seen.count(1) >= 2, "a second attempt at the message")
        assert not client.dead_letters(queue)
        autoconn.execute("drop trigger refuse on pgque.retry_queue")
        eventually(lambda: client.dead_letters(queue))
        eventually(lambda: autoconn.execute("select count(*) from handled").fetchone() == (2,))
    assert autoconn.execute("select id from handled order by id").fetchall() == [(0,), (2,)]


def test_a_handler_that_hides_a_database_error_counts_as_failed(client, new, queue):
    client.set_queue_config(queue, "max_retries", 0)
    consumer = new()

    @consumer.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        with contextlib.suppress(psycopg.DataError):
            client.conn.execute("select 1 / 0")

    with running(consumer):
        client.send(queue, "x")
        eventually(lambda: client.dead_letters(queue))
    [dead] = client.dead_letters(queue)
    assert "PgqueTransactionAborted" in dead.dl_reason


def test_a_handler_cannot_commit_part_of_a_batch(client, new, queue):
    client.set_queue_config(queue, "max_retries", 0)
    consumer = new()

    @consumer.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.conn.commit()

    with running(consumer):
        client.send(queue, "x")
        eventually(lambda: client.dead_letters(queue))
    assert "commit() is refused" in client.dead_letters(queue)[0].dl_reason


def test_a_message_of_a_type_without_handler_is_nacked(client, new, queue):
    client.set_queue_config(queue, "max_retries", 0)
    with running(new()):
        client.send(queue, "x", type="unheard.of")
        eventually(lambda: client.dead_letters(queue))
    assert client.dead_letters(queue)[0].dl_reason == "no handler for type 'unheard.of'"


def test_a_type_without_handler_is_ignored_on_request(client, new, queue, caplog):
    caplog.set_level(logging.WARNING)
    with running(new(unknown_handler_policy="ack")):
        client.send(queue, "x", type="unheard.of")
        client.ticker_all()
        eventually(lambda: position_is_caught_up(client, queue))
    assert not client.dead_letters(queue)
    assert "no handler for type 'unheard.of'" in caplog.text


def test_a_handler_can_send_in_the_transaction_of_its_ack(client, new, queue):
    client.create_queue("next")
    client.subscribe("next", "c")
    consumer = new()

    @consumer.on("default")
    def handle(msg: Message, client: PgqueClient) -> None:
        client.send("next", f"after {msg.payload}")
        if msg.retry_count == 0 and msg.payload == "b":
            raise ValueError("first attempt")

    got: list[str | None] = []
    with running(consumer):
        client.send_batch(queue, "default", ["a", "b"])

        def all_arrived() -> bool:
            messages = client.receive("next", "c")
            got.extend(m.payload for m in messages)
            return bool(messages and client.ack(messages[0].batch_id)) and len(got) >= 2

        eventually(all_arrived)
    assert sorted(got) == ["after a", "after b"]


def test_p8_a_backlog_is_drained_in_batches_of_at_most_max_messages(client, new, queue):
    for n in range(20):
        client.send_batch(queue, "default", range(n * 50, (n + 1) * 50))
        client.ticker(queue)
    consumer = new(max_messages=64)
    sizes: dict[int, int] = {}
    got: list[int] = []

    @consumer.on("default")
    def handle(msg: Message) -> None:
        sizes[msg.batch_id] = sizes.get(msg.batch_id, 0) + 1
        got.append(msg.json())

    with running(consumer):
        eventually(lambda: len(got) == 1000)
    assert got == list(range(1000))
    assert max(sizes.values()) <= 64
    assert len(sizes) < 30  # several windows are merged into one batch


def test_without_a_ticker_the_consumer_ticks(client, new, queue):
    got = threading.Event()
    consumer = new()
    consumer.on("default")(lambda msg: got.set())
    with running(consumer):
        client.send(queue, "x")
        assert got.wait(PATIENCE)


@directly
def test_a_single_event_of_a_slow_transaction_arrives_right_after_its_commit(
    new, queue, connect, autoconn
):
    handled: list[float] = []
    consumer = new()
    consumer.on("default")(lambda msg: handled.append(time.monotonic()))

    def last_tick() -> tuple[int, list[str]]:
        row = autoconn.execute(
            "select tick_event_seq, tick_waiting from pgque.tick order by tick_id desc limit 1"
        ).fetchone()
        assert row is not None
        return row

    delays = []
    with running(consumer):
        for n in range(1, 6):
            slow = connect()
            slow.execute("select pgque.send(%s, 'x'::text)", [queue])
            eventually(lambda seq=n: last_tick()[0] >= seq, "a tick that counts the event")
            time.sleep(1)  # the ticker sees nothing else and goes to sleep
            committed = time.monotonic()
            slow.commit()
            eventually(lambda seq=n: len(handled) == seq)
            delays.append(handled[-1] - committed)
    # The best of five, because the machine may be busy.
    assert min(delays) < 0.1


def test_without_notifications_the_consumer_polls(client, new, queue, monkeypatch):
    monkeypatch.setattr("pgque.wire.calls.is_pooled", lambda conn: True)
    got: list[Message] = []
    consumer = new()
    consumer.on("default")(got.append)
    with running(consumer):
        client.send(queue, 1)
        eventually(lambda: len(got) == 1)
        client.send(queue, 2)
        eventually(lambda: len(got) == 2)


def test_sigterm_ends_a_consumer_with_status_0(dsn, queue, consumer):
    script = """
        import sys, pgque
        consumer = pgque.Consumer(sys.argv[1], queue=sys.argv[2], name=sys.argv[3])
        consumer.on("*")(print)
        class Said:
            def write(self, text): pass
        import threading, time
        def say():
            while not consumer._received_once: time.sleep(0.01)
            print("ready", flush=True)
        threading.Thread(target=say, daemon=True).start()
        consumer.start()
    """
    with process(script, dsn, queue, consumer) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert child.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queue": "nowhere"}, pgque.PgqueQueueNotFound),
        ({"name": "nobody"}, pgque.PgqueConsumerNotFound),
    ],
)
def test_start_raises_errors_that_exist_from_the_beginning(new, options, error):
    with pytest.raises(error):
        new(**options).start()


def test_start_raises_without_a_server():
    consumer = Consumer("host=127.0.0.1 port=1 connect_timeout=2", queue="q", name="c")
    with pytest.raises(pgque.PgqueConnectionError, match="DSN"):
        consumer.start()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dead_interval": 3}, "needs subconsumer"),
        ({"dead_interval": 0, "subconsumer": "m"}, "at least 0.1 seconds, not 0"),
        ({"dead_interval": 0.001, "subconsumer": "m"}, "at least 0.1 seconds"),
        ({"dead_interval": -5, "subconsumer": "m"}, "at least 0.1 seconds"),
        ({"dead_interval": timedelta(0), "subconsumer": "m"}, "at least 0.1 seconds"),
        ({"dead_interval": math.nan, "subconsumer": "m"}, "number of seconds"),
        ({"unknown_handler_policy": "drop"}, "'nack' or 'ack'"),
        ({"max_messages": 0}, "from 1 to"),
        ({"max_messages": 2**31}, "from 1 to"),
        ({"max_messages": None}, "from 1 to"),
        ({"poll_interval": 0}, "above 0"),
        ({"poll_interval": math.nan}, "above 0"),
        ({"poll_interval": math.inf}, "above 0"),
        ({"poll_interval": None}, "above 0"),
    ],
)
def test_bad_arguments_are_value_errors(new, options, text):
    with pytest.raises(ValueError, match=text):
        new(**options)


def test_a_role_without_the_right_to_tick_can_still_consume(client, queue, consumer, dsn):
    client.conn.execute(
        "do $$ begin create role only_reads login in role pgque_reader; "
        "exception when duplicate_object then null; end $$"
    )
    got: list[Message] = []
    reader = Consumer(
        psycopg.conninfo.make_conninfo(dsn, user="only_reads"), queue=queue, name=consumer
    )
    reader.on("*")(got.append)
    with running(reader):
        client.send(queue, "x")
        client.ticker(queue)
        eventually(lambda: len(got) == 1)
