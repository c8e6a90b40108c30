"""The test kit: ticks, and draining with a consumer's own code."""

import contextlib
import logging

import psycopg
import pytest
from psycopg.rows import dict_row

from pgque import (
    Consumer,
    PgqueBusy,
    PgqueConnectionError,
    PgqueConsumerNotFound,
    PgqueError,
    PgqueInvalidArgument,
    PgqueTickerStopped,
)
from pgque.observers import Observer
from pgque.testing import HandlerFailed, Kit

NOWHERE = "postgresql://nobody@nowhere.invalid/nothing"


@pytest.fixture
def client(kit):
    return kit.client


def shipping(**options) -> Consumer:
    """An application's consumer, created before the test's database was known."""
    return Consumer(NOWHERE, **{"queue": "orders", "name": "shipping", **options})


def collecting(got: list, **options) -> Consumer:
    """A consumer that collects the JSON of each message."""
    consumer = shipping(**options)
    consumer.on("*")(lambda message: got.append(message.json()))
    return consumer


# Ticks


def test_a_tick_makes_committed_events_visible(kit, client):
    client.send("orders", 1)
    assert client.receive("orders", "shipping") == []
    assert kit.tick() == 1
    assert len(client.receive("orders", "shipping")) == 1


def test_a_tick_ignores_the_lag_of_a_queue(kit, client):
    kit.queue("orders", ticker_max_lag="1 hour")
    client.send("orders", 1)
    assert kit.tick("orders") == 1
    assert len(client.receive("orders", "shipping")) == 1


def test_a_tick_of_all_queues_leaves_out_paused_ones(kit, client):
    kit.queue("quiet", ticker_paused=True)
    client.send("orders", 1)
    client.send("quiet", 1)
    assert kit.tick() == 1
    with pytest.raises(PgqueTickerStopped):
        kit.tick("quiet")


def test_the_row_factory_of_the_connection_does_not_matter(dsn):
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn, Kit(conn) as kit:
        kit.queue("orders", "shipping")
        kit.client.send("orders", {"n": 1})
        assert kit.tick() == 1
        assert kit.maintain() == 0
        kit.assert_sent("orders", {"n": 1})
        assert len(kit.drain(collecting([])).messages) == 1
    assert conn.closed


# Draining


def test_drain_handles_all_committed_events_in_the_kits_database(kit, client):
    got: list[int] = []
    for batch in range(3):
        client.send_batch("orders", "t", range(batch * 10, batch * 10 + 10))
        kit.tick()
    drained = kit.drain(collecting(got, max_messages=4))
    assert got == list(range(30))
    assert [message.json() for message in drained.messages] == got
    assert kit.drain(collecting(got)).messages == []
    [info] = client.consumer_info("orders")
    assert (info.pending_events, info.current_batch) == (0, None)


def test_writes_of_a_handler_commit_with_the_ack(kit, client, autoconn):
    autoconn.execute("create table handled (n int)")
    consumer = shipping()

    @consumer.on("default")
    def handle(message, client):
        client.conn.execute("insert into handled values (%s)", [message.json()])
        if message.json() == 2:
            raise ValueError("not two")

    client.send_batch("orders", "default", [1, 2, 3])
    kit.drain(consumer, raise_errors=False)
    assert autoconn.execute("select n from handled order by n").fetchall() == [(1,), (3,)]


def test_drain_raises_the_errors_at_its_end(kit, client):
    got: list[int] = []
    consumer = shipping()

    @consumer.on("default")
    def handle(message):
        if message.json() == 1:
            raise KeyError("city")
        got.append(message.json())

    client.send_batch("orders", "default", [1, 2])
    client.send("orders", 3, type="unknown")
    with pytest.raises(HandlerFailed) as caught:
        kit.drain(consumer)
    assert got == [2]
    assert str(caught.value) == (
        "2 of 3 messages failed and were nacked:\n"
        "  message 1 (default): KeyError: 'city'\n"
        "  message 3 (unknown): no handler for type 'unknown'"
    )
    assert isinstance(caught.value.__cause__, KeyError)
    [_, unknown] = caught.value.failures
    assert isinstance(unknown.error, LookupError)


def test_a_swallowed_database_error_is_a_failure(kit, client):
    consumer = shipping()

    @consumer.on("default")
    def handle(message, client):
        with contextlib.suppress(psycopg.Error):
            client.conn.execute("select 1 / 0")

    client.send("orders", 1)
    [failure] = kit.drain(consumer, raise_errors=False).failures
    assert "PgqueTransactionAborted" in failure.reason


def test_types_without_a_handler_can_be_ignored(kit, client):
    client.send("orders", 1)
    assert len(kit.drain(shipping(unknown_handler_policy="ack")).messages) == 1


def test_retries_are_handled_after_the_clock_was_moved(kit, client):
    kit.queue("orders", max_retries=1)
    consumer = shipping(retry_after=60)
    consumer.on("default")(lambda message: 1 / 0)
    client.send("orders", 1)
    assert len(kit.drain(consumer, raise_errors=False).failures) == 1
    assert kit.drain(consumer).messages == []
    kit.advance(60)
    with pytest.raises(HandlerFailed, match=r"retry 1.*ZeroDivisionError"):
        kit.drain(consumer)
    [dead] = client.dead_letters("orders")
    assert dead.dl_reason == "ZeroDivisionError: division by zero"


def test_retries_that_are_due_at_once_are_handled_too(kit, client):
    kit.queue("orders", max_retries=3)
    consumer = shipping(retry_after=0)
    consumer.on("default")(lambda message: 1 / 0)
    client.send("orders", 1)
    assert len(kit.drain(consumer, raise_errors=False).failures) == 4


def test_handlers_that_send_to_each_other_are_drained_together(kit, client):
    kit.queue("parcels", "post")
    got: list[int] = []
    consumer, post = shipping(), Consumer(NOWHERE, queue="parcels", name="post")
    consumer.on("*")(lambda message, client: client.send("parcels", message.json() + 1))
    post.on("*")(lambda message: got.append(message.json()))
    client.send("orders", 1)
    assert len(kit.drain(post, consumer).messages) == 2
    assert got == [2]


def test_handlers_that_send_to_their_own_queue_are_stopped(kit, client):
    consumer = shipping()
    consumer.on("*")(lambda message, client: client.send("orders", 1))
    client.send("orders", 1)
    with pytest.raises(PgqueError, match="does a handler send to its own queue"):
        kit.drain(consumer, limit=10)


def test_a_handler_can_stop_its_consumer(kit, client):
    consumer = shipping()
    consumer.on("*")(lambda message: consumer.stop())
    client.send_batch("orders", "t", [1, 2, 3])
    assert [len(kit.drain(consumer).messages) for _ in range(4)] == [1, 1, 1, 0]


def test_members_of_a_group_are_drained_and_take_over_dead_ones(kit, client):
    got: list[int] = []
    client.subscribe_subconsumer("orders", "crew", "gone")
    client.send("orders", 1)
    kit.tick()
    assert client.receive_coop("orders", "crew", "gone")
    member = collecting(got, name="crew", subconsumer="b", dead_interval=60)
    kit.drain(member)
    assert got == []
    kit.advance(61)
    kit.drain(member)
    assert got == [1]


def test_a_pytest_failure_in_a_handler_ends_the_test_at_once(kit, client):
    consumer = shipping()
    consumer.on("*")(lambda message: pytest.fail("enough"))
    client.send("orders", 1)
    with pytest.raises(pytest.fail.Exception, match="enough"):
        kit.drain(consumer)
    got: list[int] = []
    kit.drain(collecting(got))
    assert got == [1]


def test_the_error_names_a_consumer_that_is_not_subscribed(kit):
    with pytest.raises(PgqueConsumerNotFound, match="orders/stranger"):
        kit.drain(shipping(name="stranger"))


def test_drain_does_not_wait_for_a_consumer_at_work_elsewhere(kit, client, connect):
    client.send("orders", 1)
    kit.tick()
    other = Kit(connect())
    assert other.client.receive("orders", "shipping")
    with pytest.raises(PgqueBusy):
        kit.drain(collecting([]))


@pytest.mark.parametrize("method", ["tick", "maintain", "drain"])
def test_drain_fails_while_the_transaction_is_not_committed(kit, conn, method):
    own = Kit(conn)
    own.client.send("orders", 1)
    with pytest.raises(PgqueInvalidArgument, match=r"inside of a transaction.*Commit it"):
        getattr(own, method)()
    conn.commit()
    getattr(own, method)()


def test_a_handler_can_close_the_tests_connection(kit, client, connect):
    """Django's close_old_connections does this."""
    borrowed = connect(autocommit=True)
    consumer = shipping()
    consumer.on("*")(lambda message: borrowed.close())
    client.send("orders", 1)
    assert len(Kit(borrowed).drain(consumer).messages) == 1
    with pytest.raises(PgqueConnectionError):
        Kit(borrowed).tick()


def test_observers_are_called(kit, client):
    class Counting(Observer):
        handled = 0

        def on_handled(self, batch, message, seconds, error):
            self.handled += 1

    counting = Counting()
    consumer = collecting([])
    consumer.observe(counting)
    client.send("orders", 1)
    kit.drain(consumer)
    assert counting.handled == 1


def test_failures_are_logged_the_way_a_running_consumer_does(kit, client, caplog):
    consumer = shipping()
    consumer.on("*")(lambda message: 1 / 0)
    client.send("orders", 1)
    with caplog.at_level(logging.WARNING, "pgque.consumer"):
        kit.drain(consumer, raise_errors=False)
    assert "orders/shipping: handler failed on message 1" in caplog.text
