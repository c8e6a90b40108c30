"""What pgque costs beside plain INSERT, COPY and SELECT, in one run on one server.

    python -m bench [--dsn DSN] [--rounds N]

Each workload and its reference take turns, so that a noisy machine hits both alike. Printed are the
medians, the range and the ratio of the medians. Without ``--dsn`` an embedded PostgreSQL 18 is
started with durable settings (fsync and synchronous_commit on).
"""

import argparse
import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psycopg

import pgque
from bench.latency import measure_latency

PAYLOAD = "x" * 100
PLAIN = """
    create table if not exists plain (
        id bigint generated always as identity, time timestamptz, type text, data text);
    create index if not exists plain_id on plain (id);
    truncate plain;
"""


@dataclass
class Row:
    """One workload and its reference: seconds per event of each round."""

    name: str
    reference: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def line(self) -> str:
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        spread = f"{min(self.ours) * 1e6:.1f}-{max(self.ours) * 1e6:.1f}"
        return (
            f"| {self.name} | {ours * 1e6:.1f} | {spread} | {1 / ours:,.0f} "
            f"| {self.reference} | {theirs * 1e6:.1f} | {ours / theirs:.2f} |"
        )


def timed(work: Callable[[], int]) -> float:
    """Seconds per event of something that returns how many events it did."""
    began = time.perf_counter()
    count = work()
    return (time.perf_counter() - began) / count


def run(dsn: str, rounds: int) -> list[Row]:
    rows = [
        Row("send, one per transaction", "INSERT"),
        Row("send_batch of 1,000", "COPY"),
        Row("receive and ack, by 1,000", "binary SELECT"),
    ]
    with pgque.connect(dsn, autocommit=True) as client:
        client.conn.execute(PLAIN)
        client.drop_queue("bench", force=True) if client.create_queue("bench") == 0 else None
        client.create_queue("bench")
        client.subscribe("bench", "reader")
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            rows[0].ours.append(timed(lambda: send_singly(client, 1000)))
            rows[0].theirs.append(timed(lambda: insert_singly(client.conn, 1000)))
            rows[1].ours.append(timed(lambda: send_batches(client, 50)))
            rows[1].theirs.append(timed(lambda: copy(client.conn, 50)))
            client.ticker("bench")
            rows[2].ours.append(timed(lambda: drain(client)))
            rows[2].theirs.append(timed(lambda: select(client.conn)))
            client.conn.execute("truncate plain")
    return rows


def send_singly(client: pgque.PgqueClient, count: int) -> int:
    for _ in range(count):
        client.send("bench", PAYLOAD)
    return count


def insert_singly(conn: psycopg.Connection, count: int) -> int:
    for _ in range(count):
        conn.execute(
            "insert into plain (time, type, data) values (clock_timestamp(), 'default', %s)",
            [PAYLOAD],
        )
    return count


def send_batches(client: pgque.PgqueClient, batches: int) -> int:
    payloads = [PAYLOAD] * 1000
    for _ in range(batches):
        client.send_batch("bench", "default", payloads)
    return batches * 1000


def copy(conn: psycopg.Connection, batches: int) -> int:
    for _ in range(batches):
        with conn.cursor() as cursor, cursor.copy("copy plain (type, data) from stdin") as out:
            for _ in range(1000):
                out.write_row(("default", PAYLOAD))
    return batches * 1000


def drain(client: pgque.PgqueClient) -> int:
    count = 0
    while messages := client.receive("bench", "reader", 1000):
        count += len(messages)
        client.ack(messages[0].batch_id)
    return count


def select(conn: psycopg.Connection) -> int:
    count, last = 0, 0
    while True:
        cursor = conn.cursor(binary=True)
        query = "select id, time, type, data from plain where id > %s order by id limit 1000"
        rows = cursor.execute(query, [last]).fetchall()
        if not rows:
            return count
        count += len(rows)
        last = rows[-1][0]


@contextlib.contextmanager
def server(dsn: str | None) -> Iterator[str]:
    """The DSN that was given, or that of an embedded server, with pgque installed."""
    from pgque.embedded import Server
    from pgque.install import install

    with contextlib.ExitStack() as stack:
        if dsn is None:
            dsn = stack.enter_context(Server(version=18)).dsn
        install(dsn)
        yield dsn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--dsn", help="an own server; its queue 'bench' and table 'plain' are replaced"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with server(options.dsn) as dsn:
        with psycopg.connect(dsn) as conn:
            version = conn.info.parameter_status("server_version")
        rows = run(dsn, options.rounds)
        print(f"\nPostgreSQL {version}, Python {platform.python_version()}, {platform.machine()}\n")
        print("| workload | µs an event | range | events a second | reference | µs | ratio |")
        print("|---|--:|--:|--:|---|--:|--:|")
        for row in rows:
            print(row.line())
        print("\n| send to handler, events a second | median ms | 99th percentile ms |")
        print("|--:|--:|--:|")
        for rate, median, high in measure_latency(dsn, (1, 10, 100, 1000)):
            print(f"| {rate} | {median:.2f} | {high:.2f} |")


if __name__ == "__main__":
    main()
