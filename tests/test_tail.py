"""Following events without consuming them (pgque/tail.py)."""

from datetime import datetime, timedelta, timezone

import pytest

from pgque.errors import PgqueQueueNotFound
from pgque.tail import Tail
from tests.fix_engine import drain, nack, payloads, receive, send, send_many, tick, value


def read(tail: Tail) -> list[str]:
    return payloads(tail.read())


def test_each_event_is_shown_once_when_it_is_committed(autoconn, connect, queue):
    send(autoconn, queue, "before")
    tail = Tail(autoconn, queue)
    late = connect()
    send(late, queue, "late")
    send(autoconn, queue, "early")
    assert read(tail) == ["early"]
    assert read(tail) == []
    late.commit()
    send(autoconn, queue, "after")
    assert read(tail) == ["late", "after"]
    assert read(tail) == []


def test_rolled_back_events_are_not_shown(autoconn, connect, queue):
    tail = Tail(autoconn, queue)
    other = connect()
    send(other, queue, "never")
    assert read(tail) == []
    other.rollback()
    assert read(tail) == []


def test_a_tail_can_begin_at_a_time_in_the_past(autoconn, queue, consumer):
    send(autoconn, queue, "a")
    tick(autoconn, queue)
    between = value(autoconn, "select clock_timestamp()")
    send(autoconn, queue, "b")
    hour_ago = datetime.now(timezone.utc) - timedelta(hours=1)
    assert read(Tail(autoconn, queue, hour_ago)) == ["a", "b"]
    assert read(Tail(autoconn, queue, between)) == ["b"]


def test_a_tail_consumes_nothing_and_leaves_out_redeliveries(autoconn, queue, consumer):
    tail = Tail(autoconn, queue)
    send(autoconn, queue, "x")
    tick(autoconn, queue)
    [message] = receive(autoconn, queue, consumer)
    nack(autoconn, message, "0")
    autoconn.execute("select pgque.ack(%s)", [message.batch_id])
    autoconn.execute("select pgque.maint_retry_events()")
    assert read(tail) == ["x"]
    assert payloads(drain(autoconn, queue, consumer)) == ["x"]


def test_p7_a_tail_reads_only_new_events(autoconn, queue):
    tail = Tail(autoconn, queue)
    send_many(autoconn, queue, 20_000)
    assert len(read(tail)) == 20_000
    send(autoconn, queue, "one")
    plan = autoconn.execute(
        b"explain (analyze, buffers, format json) " + tail._query.as_bytes(autoconn),
        {"seen": tail._seen},
    ).fetchone()[0][0]["Plan"]
    assert plan["Actual Rows"] == 1
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 60


def test_the_error_names_an_unknown_queue(autoconn):
    with pytest.raises(PgqueQueueNotFound, match="nobody"):
        Tail(autoconn, "nobody")
