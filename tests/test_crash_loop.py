"""A message that kills every member of its group: doctor, top, dashboard and an alert report it."""

from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry

import pgque
from pgque import metrics
from pgque.dashboard import frames
from pgque.dashboard.snapshot import Snapshotter
from pgque.doctor import Status, examine
from pgque.top.history import History
from pgque.watching.live import Live
from tests.fix_engine import value
from tests.running import PATIENCE, process

ROOT = Path(__file__).parents[1]
TAKEOVERS = 3
MEMBER = """
    import os, signal, sys
    import pgque

    dsn, queue, member = sys.argv[1:]
    consumer = pgque.Consumer(
        dsn, queue=queue, name="group", subconsumer=member, dead_interval=0.2, max_messages=1,
        poll_interval=0.05,
    )

    @consumer.on("default")
    def handle(msg):
        if msg.payload == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        consumer.stop()

    consumer.start()
"""


@pytest.fixture
def client(dsn, queue):
    with pgque.connect(dsn, autocommit=True) as client:
        client.subscribe_subconsumer(queue, "group", "m0")
        yield client


def run_member(dsn: str, queue: str, number: int) -> int:
    with process(MEMBER, dsn, queue, f"m{number}") as child:
        return child.wait(PATIENCE)


def states(dsn: str, conn, queue: str) -> dict[str, str]:
    """Return the group's state as each tool shows it."""
    [doctor] = [one for one in examine(dsn) if one.check == "consumers"]
    history = History()
    history.add(Live(conn).look())
    frame = frames.one_queue(Snapshotter(conn).take(), queue)
    [group] = [row for row in frame["consumers"] if row["consumer"] == "group"]
    overview = frames.overview(Snapshotter(conn).take())
    place = overview["columns"].index("state")
    return {
        "doctor": "crash loop" if "is in a crash loop" in doctor.detail else doctor.status.value,
        "top": history.consumers[queue, "group"].state.word,
        "top's queue": history.queues[queue].state.word,
        "dashboard": group["state"],
        "dashboard's queue": frame["queue"]["state"],
        "overview": overview["queues"][0][place],
    }


def firing(dsn: str) -> set[str]:
    """Return the consumers for which the alert's expression is true now."""
    rules = yaml.safe_load((ROOT / "docs/alerts.yml").read_text())["groups"][0]["rules"]
    [expression] = [rule["expr"] for rule in rules if rule["alert"] == "PgqueConsumerCrashLoop"]
    parsed = promql_parser.parse(expression)
    assert str(parsed.op) == "=="
    registry = CollectorRegistry()
    registry.register(metrics.collector(dsn))
    return {
        sample.labels["consumer"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == parsed.lhs.name and sample.value == parsed.rhs.val
    }


def test_every_tool_reports_a_crash_loop_until_its_message_is_gone(dsn, client, queue, autoconn):
    client.send(queue, "poison")
    client.ticker(queue)
    for number in range(TAKEOVERS):
        assert run_member(dsn, queue, number) == -9
    assert set(states(dsn, autoconn, queue).values()) == {"ok"}, "only two takeovers"
    assert firing(dsn) == set()
    assert run_member(dsn, queue, TAKEOVERS) == -9
    assert set(states(dsn, autoconn, queue).values()) == {"crash loop"}
    assert firing(dsn) == {"group", f"group.m{TAKEOVERS}"}
    [found] = [one for one in examine(dsn) if one.check == "consumers"]
    assert found.status is Status.FAULT
    assert f"{TAKEOVERS} times in a row" in found.detail
    assert found.mend is not None
    [(_, _, _, _, _, payload, *_)] = autoconn.execute(found.mend.encode()).fetchall()
    assert payload == "poison", "doctor's command must show the message"
    takeovers = "select takeovers from pgque.get_consumer_wait(%s, 'group')"
    assert value(autoconn, takeovers, queue) == TAKEOVERS

    [message] = client.receive_coop(queue, "group", "operator", dead_interval=0)
    client.nack(message.batch_id, message, reason="kills its process")
    client.ack(message.batch_id)
    assert set(states(dsn, autoconn, queue).values()) == {"ok"}
    assert firing(dsn) == set()
    client.send(queue, "harmless")
    client.ticker(queue)
    assert run_member(dsn, queue, 0) == 0


def test_takeovers_with_progress_in_between_are_not_a_crash_loop(client, queue, autoconn):
    client.send_batch(queue, "default", range(8))
    client.ticker(queue)
    for number in range(8):
        [message, *_] = client.receive_coop(
            queue, "group", f"m{number}", max_messages=8 - number, dead_interval=0
        )
        [message] = client.receive_coop(queue, "group", f"m{number}", max_messages=1)
        client.ack(message.batch_id)
    assert value(autoconn, "select max(takeovers) from pgque.get_consumer_wait()") <= 1


def test_a_group_is_alive_while_one_of_its_members_is(client, queue, autoconn):
    client.send(queue, "long")
    client.ticker(queue)
    client.receive_coop(queue, "group", "m0")
    for table, column in (("tick", "tick_time"), ("cursor", "cur_time")):
        autoconn.execute(
            f"update pgque.{table} set {column} = {column} - interval '1 hour'".encode()
        )
    state = "select state from pgque.get_consumer_wait(%s, %s)"
    assert value(autoconn, state, queue, "group") == "silent"
    assert value(autoconn, state, queue, "group.m0") == "silent"
    client.touch_subconsumer(queue, "group", "m0")
    assert value(autoconn, state, queue, "group") == "stuck"
    assert value(autoconn, state, queue, "group.m0") == "stuck"
