"""Take the pictures of `pgque top`: `python docs/make_top.py` writes them to its folder.

It starts an embedded server with queues under load: a fast consumer, a slow one, a group, a
consumer whose messages fail, and one that never runs. It takes the pictures after 90 seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pgque
from pgque.embedded import Server
from pgque.install import install
from pgque.top.app import TopApp
from pgque.top.source import Source

HERE = Path(__file__).resolve().parent
SIZE = (100, 24)
INTERVAL = 0.5
SAMPLES = 170

QUEUES = {
    "audit.trail": ["archive"],
    "billing.invoices": ["books", "tax"],
    "clicks": ["counts", "export"],
    "mails": ["sender"],
    "newsletter": ["sender"],
    "orders": ["shipping"],
    "search.index": [],
    "thumbnails": [],
}


class Load:
    """Producers and consumers, in threads that run until `stop` is set."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._chance = random.Random(7)  # noqa: S311
        self.stop = threading.Event()

    def produce(self, queue: str, kind: str, rate: Callable[[float], float]) -> None:
        """Send events at a rate per second, which is a function of the elapsed seconds."""
        with pgque.connect(self._dsn, autocommit=True) as client:
            seconds = 0.0
            while not self.stop.wait(0.1):
                seconds += 0.1
                count = round(rate(seconds) / 10 * self._chance.uniform(0.7, 1.3))
                client.send_batch(queue, kind, [{"number": n, "at": seconds} for n in range(count)])

    def consume(
        self,
        queue: str,
        name: str,
        member: str | None = None,
        seconds: float = 0.0,
        fails: float = 0.0,
    ) -> pgque.Consumer:
        """Return a consumer with a time per message and a share of messages that fail."""
        group = None if member is None else name
        consumer = pgque.Consumer(
            self._dsn,
            queue=queue,
            name=name,
            subconsumer=member,
            retry_after=5,
            max_messages=500 if group is None else 20,
        )

        @consumer.on("*")
        def handle(message: pgque.Message) -> None:
            self.stop.wait(seconds)
            if self._chance.random() < fails:
                raise ValueError(f"no such address in message {message.msg_id}")

        return consumer


@contextlib.contextmanager
def under_load(dsn: str) -> Iterator[None]:
    """Keep the queues busy during the block."""
    with pgque.connect(dsn, autocommit=True) as client:
        for queue, consumers in QUEUES.items():
            client.create_queue(queue)
            for consumer in consumers:
                client.subscribe(queue, consumer)
        client.set_queue_config("mails", "max_retries", 1)
        client.set_queue_config("newsletter", "ticker_paused", True)
        for member in ("a", "b"):
            client.subscribe_subconsumer("thumbnails", "resize", member)
    load = Load(dsn)
    ticker = pgque.Ticker(dsn)
    consumers = [
        load.consume("audit.trail", "archive"),
        load.consume("billing.invoices", "books"),
        load.consume("billing.invoices", "tax", seconds=0.02),
        load.consume("clicks", "counts"),
        load.consume("clicks", "export", seconds=0.01),
        load.consume("mails", "sender", fails=0.15),
        load.consume("orders", "shipping"),
        load.consume("thumbnails", "resize", "a", seconds=0.03),
        load.consume("thumbnails", "resize", "b", seconds=0.03),
    ]
    producers = {
        ("audit.trail", "row.changed"): lambda s: 150 + 100 * math.sin(s / 3),
        ("billing.invoices", "invoice.written"): lambda s: 12,
        ("clicks", "click"): lambda s: 700 + 500 * math.sin(s / 5),
        ("mails", "mail.asked"): lambda s: 30 + 20 * math.sin(s),
        ("newsletter", "letter.asked"): lambda s: 14,
        ("orders", "order.placed"): lambda s: 80 + 60 * math.sin(s / 2),
        ("thumbnails", "image.added"): lambda s: 60,
    }
    parts: list[Callable[[], None]] = [ticker.run, *(consumer.start for consumer in consumers)]
    threads = [threading.Thread(target=part) for part in parts]
    threads += [
        threading.Thread(target=load.produce, args=(queue, kind, rate))
        for (queue, kind), rate in producers.items()
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        load.stop.set()
        for part in (*consumers, ticker):
            part.stop()
        for thread in threads:
            thread.join()


async def take(dsn: str) -> dict[str, str]:
    """Return the pictures by name."""
    source = Source(dsn)
    app = TopApp(source, source.look(), interval=INTERVAL)
    pictures = {}
    async with app.run_test(size=SIZE) as pilot:
        while len(app.history.totals.sent_trend) < SAMPLES:
            await pilot.pause(INTERVAL)
        pictures["top.svg"] = drawn(app)
        await pilot.press("slash", *"mails", "enter", "enter", "4")
        await pilot.pause(2 * INTERVAL)
        pictures["top-queue.svg"] = drawn(app)
    return pictures


def drawn(app: TopApp) -> str:
    """Return the screen as a picture that loads no font."""
    svg = app.export_screenshot(title="pgque top")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: Fira Code, monospace", "font-family: monospace", svg)
    return "".join(f"{line.rstrip()}\n" for line in svg.splitlines())


def main() -> None:
    """Write the pictures."""
    logging.disable(logging.CRITICAL)  # the failures are on purpose
    with Server() as server:
        install(server.dsn)
        with under_load(server.dsn):
            pictures = asyncio.run(take(server.dsn))
    for name, svg in pictures.items():
        (HERE / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
