"""pgque behind the interface of the peers: `send`, `send_batch`, a `Consumer`, a `Ticker`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

import pgque
from bench.peers import QUEUE, when
from pgque.install import install

READER = "reader"
TICKS = 3
"""The first look is enough unless another transaction of the cluster ended at that moment."""


class Ours:
    """pgque as its README says, with nothing tuned."""

    name: ClassVar[str] = "pgque"
    package: ClassVar[str] = "pgque"
    lacks: ClassVar[dict[str, str]] = {}

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connected: pgque.PgqueClient | None = None

    @property
    def client(self) -> pgque.PgqueClient:
        """This object's client, connected on first use."""
        if self._connected is None:
            self._connected = pgque.connect(self._dsn, autocommit=True)
        return self._connected

    def set_up(self) -> None:
        install(self._dsn)
        self.client.create_queue(QUEUE)
        self.client.subscribe(QUEUE, READER)

    def enqueue(self, payload: str) -> None:
        self.client.send(QUEUE, payload)

    def enqueue_many(self, payloads: list[str]) -> None:
        self.client.send_batch(QUEUE, "default", payloads)

    def work(self, handled: Callable[[str], None], stop: threading.Event) -> None:
        consumer = pgque.Consumer(self._dsn, queue=QUEUE, name=READER)

        def handle(message: pgque.Message) -> None:
            handled(message.payload or "")

        consumer.on("*")(handle)
        when(stop, consumer.stop)
        consumer.start()

    def tick(self, stop: threading.Event) -> None:
        """Run the ticker in its own process until `stop` is set."""
        ticker = pgque.Ticker(self._dsn)
        when(stop, ticker.stop)
        ticker.run()

    def cycle(self, payload: str) -> None:
        client = self.client
        client.send(QUEUE, payload)
        messages: list[pgque.Message] = []
        for _ in range(TICKS):
            client.ticker(QUEUE)
            if messages := client.receive(QUEUE, READER):
                break
        if [message.payload for message in messages] != [payload]:
            raise AssertionError(f"sent {payload!r}, received {messages!r}")
        client.ack(messages[0].batch_id)

    def tear_down(self) -> None:
        if self._connected is not None:
            self._connected.close()
            self._connected = None
