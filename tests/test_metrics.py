"""Figures for Prometheus (pgque/metrics.py, `pgque metrics`)."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from datetime import datetime, timezone

import psycopg
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

import pgque
from pgque import Consumer, Message, Ticker, metrics
from pgque.metrics import ConsumerMetrics, Family, Reader, collector
from pgque.observers import Batch
from tests.fix_cli import CHECKOUT, cli, command, environment, failed
from tests.fix_engine import ack, nack, receive, send, send_many, subscribe, tick, value
from tests.running import PATIENCE, eventually, free_port, running


@pytest.fixture
def figures(dsn):
    registry = CollectorRegistry()
    registry.register(collector(dsn))
    return registry.get_sample_value


def test_a_read_only_role_gets_the_same_figures(dsn, autoconn, queue, consumer):
    name = f"pgque_test_reader_{os.getpid()}"
    autoconn.execute(f"create role {name} login in role pgque_reader")
    try:
        send_many(autoconn, queue, 5)
        tick(autoconn, queue)
        send_many(autoconn, queue, 2)
        with psycopg.connect(psycopg.conninfo.make_conninfo(dsn, user=name)) as conn:
            assert [row[:3] for row in Reader(conn).queues()] == [(queue, 7, 2)]
    finally:
        autoconn.execute(f"drop role {name}")


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


def test_a_new_event_after_a_quiet_hour_has_a_short_wait(figures, autoconn, queue, consumer):
    autoconn.execute("update pgque.tick set tick_time = tick_time - interval '1 hour'")
    of_queue, of_consumer = {"queue": queue}, {"queue": queue, "consumer": consumer}
    send(autoconn, queue)
    assert figures("pgque_queue_tick_age_seconds", of_queue) > 3600
    assert 0 < figures("pgque_queue_unticked_seconds", of_queue) < 60
    assert 0 < figures("pgque_consumer_lag_seconds", of_consumer) < 60
    tick(autoconn, queue)
    assert figures("pgque_queue_unticked_seconds", of_queue) == 0
    assert 0 < figures("pgque_consumer_lag_seconds", of_consumer) < 60


def test_a_leading_ticker_is_shown(figures, direct_dsn):
    assert figures("pgque_ticker_leading") == 0
    with running(Ticker(direct_dsn)):
        eventually(lambda: figures("pgque_ticker_leading") == 1)


def test_registering_does_not_query_the_database():
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector("no connection string"))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(collector("no connection string"))


def test_without_a_database_pgque_up_is_0():
    registry = CollectorRegistry()
    registry.register(collector("host=127.0.0.1 port=1 connect_timeout=2"))
    assert registry.get_sample_value("pgque_up") == 0


def test_p7_a_scrape_reads_the_same_pages_for_any_backlog(autoconn, queue, consumer):
    def pages() -> int:
        asked = [
            (metrics._ASK_QUEUES, (metrics.COUNTED_AT_MOST, metrics.COUNTED_AT_MOST)),
            (metrics._ASK_CONSUMERS, None),
        ]
        total = 0
        for query, params in asked:
            explain = f"explain (analyze, buffers, format json) {query}"
            [(plans,)] = autoconn.execute(explain.encode(), params).fetchall()
            total += plans[0]["Plan"]["Shared Hit Blocks"] + plans[0]["Plan"]["Shared Read Blocks"]
        return total

    send_many(autoconn, queue, 5)
    tick(autoconn, queue)
    pages()  # plan once
    small = pages()
    for _ in range(50):
        send_many(autoconn, queue, 1000)
        tick(autoconn, queue)
    assert pages() < small + 30


def test_p7_a_scrape_reads_the_same_rows_for_any_backlog(figures, autoconn, queue, consumer):
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
    autoconn.execute("select pg_stat_force_next_flush()")
    small = cost()
    for _ in range(20):
        send_many(autoconn, queue, 500)
        tick(autoconn, queue)
    autoconn.execute("select pg_stat_force_next_flush()")
    assert cost() < small + 100


def test_metrics_are_printed(dsn, queue):
    printed = cli("metrics", PGQUE_DSN=dsn)
    assert f'pgque_queue_paused{{queue="{queue}"}} 0.0' in printed.stdout
    assert not re.search(r"^python_", printed.stdout, re.MULTILINE)
    refused = cli("metrics", PGQUE_DSN="host=127.0.0.1 port=1 connect_timeout=2")
    assert (refused.returncode, "pgque doctor" in refused.stderr) == (1, True)


def test_metrics_are_served_until_stopped(dsn, queue):
    port = free_port()
    server = subprocess.Popen(
        command("metrics", "--port", str(port)), env=environment(PGQUE_DSN=dsn), cwd=CHECKOUT
    )
    try:

        def answer() -> bytes:
            try:
                with urllib.request.urlopen(url) as page:
                    return page.read()
            except OSError:
                return b""

        url = f"http://127.0.0.1:{port}/metrics"
        eventually(lambda: f'pgque_queue_paused{{queue="{queue}"}} 0.0'.encode() in answer())
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=accept)) as page:
            assert page.headers["Content-Type"].startswith("application/openmetrics-text")
            assert page.read().endswith(b"# EOF\n")
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
    finally:
        server.kill()
        server.wait()


def test_a_port_in_use_is_one_line_of_error(dsn):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = failed(cli("metrics", "--port", str(port), PGQUE_DSN=dsn))
    assert f"cannot listen on 127.0.0.1, port {port}" in said


# Counted by a consumer


@pytest.fixture
def counted(dsn, queue, consumer):
    """The figures of a consumer that reports to them, and their registry."""
    registry = CollectorRegistry()
    one = Consumer(dsn, queue=queue, name=consumer, retry_after=0)
    counts = ConsumerMetrics()
    registry.register(counts)
    one.observe(counts)

    @one.on("*")
    def handle(msg: Message) -> None:
        if msg.type == "bad" and msg.retry_count == 0:
            raise ValueError

    with running(one):
        yield registry


def test_a_consumer_counts_its_messages_and_their_times(dsn, queue, consumer, counted):
    who = {"queue": queue, "consumer": consumer}

    def figure(name: str, **labels: str) -> float | None:
        return counted.get_sample_value(f"pgque_consumer_{name}", {**who, **labels})

    assert figure("messages_total", outcome="handled") is None
    with pgque.connect(dsn, autocommit=True) as client:
        client.send(queue, "x", type="bad")
        client.send_batch(queue, "good", ["x"] * 9)
        eventually(lambda: figure("messages_total", outcome="handled") == 10)
    assert figure("messages_total", outcome="failed") == 1
    assert figure("handling_seconds_count") == 11
    assert figure("delivery_seconds_count") == 10
    for name in ("handling", "delivery"):
        assert figure(f"{name}_seconds_bucket", le="+Inf") == figure(f"{name}_seconds_count")
        assert 0 < figure(f"{name}_seconds_sum") < 1800


def test_buckets_include_their_upper_bound():
    values = [7.0, 0.5, 1.0, 0.6]
    for parts in ([values], [[one] for one in values]):
        histogram = metrics._Histogram([0.5, 1.0])
        for part in parts:
            histogram.add([*part])
        assert histogram.read() == ([("0.5", 1), ("1.0", 3), ("+Inf", 4)], pytest.approx(9.1))
        assert histogram.count == 4


def test_messages_of_a_long_batch_are_counted_before_its_end():
    counts = ConsumerMetrics()
    registry = CollectorRegistry()
    registry.register(counts)
    now = datetime.now(timezone.utc)
    messages = [Message(n, 1, "t", "x", 0, now, None, None, None, None) for n in range(60)]
    one, other = (Batch("q", name, None, 1, messages) for name in ("one", "other"))
    for batch in one, other:
        counts.on_batch(batch)
    for number, message in enumerate(messages, 1):
        for batch, error in (one, None), (other, ValueError()):
            counts.on_handling(batch, message, 0.002)
            counts.on_handled(batch, message, 0.2, error)
        for name, outcome in ("one", "handled"), ("other", "failed"):
            labels = {"queue": "q", "consumer": name, "outcome": outcome}
            total = registry.get_sample_value("pgque_consumer_messages_total", labels)
            assert total == number
    le = {"queue": "q", "consumer": "one", "le": "0.0025"}
    assert registry.get_sample_value("pgque_consumer_delivery_seconds_bucket", le) == 60
    assert registry.get_sample_value("pgque_consumer_handling_seconds_bucket", le) == 0


@pytest.mark.parametrize("buckets", [[], [1, 1], [2, 1]])
def test_buckets_must_ascend(buckets):
    with pytest.raises(pgque.PgqueInvalidArgument, match="ascending"):
        ConsumerMetrics(buckets)


def test_threads_do_not_lose_counts(dsn, queue):
    counts = ConsumerMetrics()
    members = [Consumer(dsn, queue=queue, name="group", subconsumer=n) for n in ("a", "b")]
    for member in members:
        member.observe(counts)
        member.on("*")(lambda msg: None)
    registry = CollectorRegistry()
    registry.register(counts)
    labels = {"queue": queue, "consumer": "group", "outcome": "handled"}
    with running(members[0]), running(members[1]), pgque.connect(dsn, autocommit=True) as client:
        eventually(lambda: len(client.consumer_info(queue)) == 3)
        for _ in range(5):
            client.send_batch(queue, "default", ["x"] * 1000)
        eventually(
            lambda: registry.get_sample_value("pgque_consumer_messages_total", labels) == 5000
        )


# Names, by the conventions of Prometheus and the lint rules of promtool

FAMILIES = (*metrics.FROM_THE_DATABASE, *metrics.FROM_A_CONSUMER)
UNITS = r"milliseconds|minutes|hours|days|ms|kilobytes|megabytes|percent|us"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_follow_the_conventions(family: Family):
    name = family.name
    assert re.fullmatch(r"pgque(_[a-z]+)+", name)
    assert not re.search(rf"_({UNITS})(_|$)", name), "use base units only"
    assert not re.search(r"_(total|sum|count|bucket|info|gauge|counter|histogram)$", name)
    assert family.text.endswith(".")
    assert family.kind in {"counter", "gauge", "histogram"}
    if family.kind == "histogram" or re.search(r"\b(Time|Age)\b", family.text):
        assert name.endswith("_seconds"), "the unit comes last"
    for label in family.labels:
        assert re.fullmatch(r"[a-z]+", label)
        assert label not in {"le", "quantile", "job", "instance"}
        assert label not in name.split("_")[2:], "the name must not repeat a label"


def test_names_are_unique():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_every_named_metric_is_shown_and_can_be_parsed(dsn, queue, consumer, counted):
    counted.register(collector(dsn))
    with pgque.connect(dsn, autocommit=True) as client:
        client.send(queue, "x")
        eventually(lambda: b"delivery_seconds_bucket" in generate_latest(counted))
    shown = list(parse(generate_openmetrics(counted).decode()))
    kinds = {metric.name: (metric.type, metric.documentation) for metric in shown}
    assert kinds == {family.name: (family.kind, family.text) for family in FAMILIES}
    for metric in shown:
        [family] = [family for family in FAMILIES if family.name == metric.name]
        assert metric.samples, metric.name
        for sample in metric.samples:
            assert set(sample.labels) - {"le"} == set(family.labels)


def test_a_missing_prometheus_client_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for make in (lambda: collector("dbname=x"), ConsumerMetrics):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'pgque\[metrics\]'"):
            make()
