"""From send to handler, through a `Consumer` and a `Ticker` in processes of their own."""

import multiprocessing
import statistics
import time
from collections.abc import Iterable, Iterator

import pgque

SECONDS = 5


def _consume(dsn: str, delays: "multiprocessing.Queue[float]") -> None:
    consumer = pgque.Consumer(dsn, queue="latency", name="reader")

    @consumer.on("*")
    def handle(msg: pgque.Message) -> None:
        # One machine, one clock.
        delays.put(time.time() - msg.created_at.timestamp())

    consumer.start()


def _tick(dsn: str) -> None:
    pgque.Ticker(dsn).run()


def measure_latency(dsn: str, rates: Iterable[int]) -> Iterator[tuple[int, float, float]]:
    """Yield rate, median and 99th percentile in milliseconds for each rate of sends a second."""
    context = multiprocessing.get_context("spawn")
    delays = context.Queue()
    with pgque.connect(dsn, autocommit=True) as client:
        client.create_queue("latency")
        client.subscribe("latency", "reader")
        parts = [
            context.Process(target=_tick, args=(dsn,), daemon=True),
            context.Process(target=_consume, args=(dsn, delays), daemon=True),
        ]
        for part in parts:
            part.start()
        try:
            client.send("latency", "first")
            delays.get(timeout=30)
            for rate in rates:
                yield rate, *_measure(client, rate, delays)
        finally:
            for part in parts:
                part.terminate()
                part.join()


def _measure(client: pgque.PgqueClient, rate: int, delays) -> tuple[float, float]:
    count = max(rate * SECONDS, 10) if rate < 10 else rate * SECONDS
    began = time.perf_counter()
    for number in range(count):
        client.send("latency", "x")
        pause = began + (number + 1) / rate - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
    measured = sorted(delays.get(timeout=30) * 1e3 for _ in range(count))
    return statistics.median(measured), measured[int(len(measured) * 0.99)]
