"""Figures for Prometheus (pgque/metrics.py, `pgque metrics`)."""

import re
import signal
import socket
import subprocess
import urllib.request

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from pgque.metrics import Reader, collector
from tests.fix_cli import CHECKOUT, cli, command, environment
from tests.fix_engine import ack, nack, receive, send_many, subscribe, tick, value
from tests.running import eventually


@pytest.fixture
def figures(dsn):
    registry = CollectorRegistry()
    registry.register(collector(dsn))
    return registry.get_sample_value


def test_queues_and_consumers_are_counted(figures, autoconn, queue, consumer):
    subscribe(autoconn, queue, "other")
    of_queue = {"queue": queue}
    of_consumer = {"queue": queue, "consumer": consumer}
    send_many(autoconn, queue, 5)
    assert figures("pgque_up") == 1
    assert figures("pgque_queue_events_sent_total", of_queue) == 5
    assert figures("pgque_queue_events_unticked", of_queue) == 5
    tick(autoconn, queue)
    assert figures("pgque_queue_events_unticked", of_queue) == 0
    assert figures("pgque_consumer_pending_events", of_consumer) == 5
    autoconn.execute("select pgque.set_queue_config(%s, 'max_retries', '1')", [queue])
    batch = receive(autoconn, queue, consumer)
    assert figures("pgque_consumer_batch_open", of_consumer) == 1
    nack(autoconn, batch[0], "0")
    ack(autoconn, batch)
    assert figures("pgque_queue_retries_waiting", of_queue) == 1
    autoconn.execute("select pgque.maint_retry_events()")
    tick(autoconn, queue)
    again = receive(autoconn, queue, consumer)
    nack(autoconn, again[0])
    ack(autoconn, again)
    assert figures("pgque_queue_retries_waiting", of_queue) == 0
    assert figures("pgque_queue_dead_letters", of_queue) == 1
    assert figures("pgque_consumer_batch_open", of_consumer) == 0
    assert figures("pgque_consumer_pending_events", {**of_consumer, "consumer": "other"}) > 0
    autoconn.execute("select pgque.set_queue_config(%s, 'ticker_paused', 'true')", [queue])
    assert figures("pgque_queue_paused", of_queue) == 1


def test_without_a_database_it_says_so():
    registry = CollectorRegistry()
    registry.register(collector("host=127.0.0.1 port=1 connect_timeout=2"))
    assert registry.get_sample_value("pgque_up") == 0


def test_p7_the_cost_does_not_depend_on_the_backlog(figures, autoconn, queue, consumer):
    read = "select coalesce(sum(idx_tup_fetch + seq_tup_read), 0) from pg_stat_user_tables"

    def cost() -> int:
        with psycopg.connect(autoconn.info.dsn, autocommit=True) as conn:
            conn.execute("set stats_fetch_consistency = none")
            before = value(conn, read)
            assert Reader(conn).queues()
            assert Reader(conn).consumers()
            conn.execute("select pg_stat_force_next_flush()")
            return int(value(conn, read) - before)

    if autoconn.info.server_version < 150_000:
        pytest.skip("statistics cannot be flushed")
    send_many(autoconn, queue, 5)
    tick(autoconn, queue)
    small = cost()
    for _ in range(20):
        send_many(autoconn, queue, 500)
        tick(autoconn, queue)
    assert cost() < small + 100


def test_they_are_printed(dsn, queue):
    printed = cli("metrics", PGQUE_DSN=dsn)
    assert f'pgque_queue_paused{{queue="{queue}"}} 0.0' in printed.stdout
    assert not re.search(r"^python_", printed.stdout, re.MULTILINE)
    refused = cli("metrics", PGQUE_DSN="host=127.0.0.1 port=1 connect_timeout=2")
    assert (refused.returncode, "pgque doctor" in refused.stderr) == (1, True)


def test_they_are_served_until_stopped(dsn, queue):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        command("metrics", "--listen", str(port)), env=environment(PGQUE_DSN=dsn), cwd=CHECKOUT
    )
    try:

        def answer() -> bytes:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
                    return page.read()
            except OSError:
                return b""

        eventually(lambda: f'pgque_queue_paused{{queue="{queue}"}} 0.0'.encode() in answer())
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
