"""A queue with one bad message among good ones, and a consumer that must get past it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

import pgque
from pgque import Consumer, DeadLetter, Message, PgqueClient
from tests.running import eventually, running

BAD = 3
GOOD = [0, 1, 2, 4, 5, 6]
Fault = Callable[[Message, PgqueClient], Any]


@dataclass
class Ordeal:
    """A consumer with a faulty handler. ``calls`` lists the payloads in the order handled."""

    consumer: Consumer
    client: PgqueClient
    queue: str
    calls: list[int] = field(default_factory=list)
    retries: int = 1

    def run(self, fault: Fault, **settings: Any) -> DeadLetter:
        """Run `fault` in the handler of the bad message; return the resulting dead letter."""
        conn = self.client.conn

        @self.consumer.on("work")
        def work(message: Message, client: PgqueClient) -> Any:
            self.calls.append(message.json())
            client.conn.execute("insert into done values (%s)", [message.json()])
            return fault(message, client) if message.json() == BAD else None

        self.client.set_queue_config(self.queue, "max_retries", self.retries)
        self.client.send_batch(self.queue, "work", range(7))
        self.client.ticker(self.queue)
        with running(self.consumer) as thread:
            eventually(
                lambda: self.client.dead_letters(self.queue) or not thread.is_alive(),
                "the dead letter",
            )
            assert thread.is_alive(), "the consumer has ended"
            self.client.send(self.queue, 7, type="work")
            eventually(lambda: 7 in self.done(), "the next message to be handled")
        assert sorted(n for n in self.done() if n != BAD) == [*GOOD, 7]
        [dead] = self.client.dead_letters(self.queue)
        assert (dead.ev_data, dead.ev_retry) == (str(BAD), self.retries)
        assert len(self.calls) < 60
        assert conn.execute("select count(*) from pgque.retry_queue").fetchone() == (0,)
        return dead

    def done(self) -> list[int]:
        """The numbers that were written and committed."""
        return [n for [n] in self.client.conn.execute("select n from done").fetchall()]


@pytest.fixture(params=["alone", "member"])
def ordeal(
    request: pytest.FixtureRequest, dsn: str, queue: str, autoconn: psycopg.Connection
) -> Ordeal:
    """A consumer that works alone, or as a member of a group."""
    autoconn.execute("create table done (n int)")
    client = PgqueClient(autoconn)
    if request.param == "alone":
        client.subscribe(queue, "c")
        consumer = Consumer(dsn, queue=queue, name="c", retry_after=0)
    else:
        client.subscribe_subconsumer(queue, "c", "m")
        consumer = Consumer(dsn, queue=queue, name="c", subconsumer="m", retry_after=0)
    return Ordeal(consumer, pgque.PgqueClient(autoconn), queue)
