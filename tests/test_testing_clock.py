"""The clock of the test kit moves all stored times, so that whatever depends on them is due."""

from datetime import datetime, timedelta, timezone

import pytest

from pgque import PgqueBusy, PgqueInvalidArgument, PgquePermissionDenied
from pgque.testing import Kit, advance, clock

MINUTE = timedelta(minutes=1)

NOT_MOVED = {
    ("config", "checked_in"),  # compared with the start time of the server
    ("config", "installed_at"),
    ("restore_report", "reported_at"),  # only shown
}


@pytest.fixture
def client(kit):
    return kit.client


def failed_once(kit, retry_after=60) -> int:
    """Send a message and nack it once; return its id."""
    sent = kit.client.send("orders", "x")
    kit.tick()
    [message] = kit.client.receive("orders", "shipping")
    kit.client.nack(message.batch_id, message, retry_after)
    kit.client.ack(message.batch_id)
    return sent


def test_every_time_column_is_moved_or_listed_as_an_exception(autoconn):
    columns = autoconn.execute(
        "select c.relname, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid "
        "where c.relnamespace = 'pgque'::regnamespace and c.relkind = 'r' "
        "and a.atttypid in ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype) "
        "and not exists (select from pg_inherits where inhrelid = c.oid)"
    ).fetchall()
    moved = {(table, column) for table, columns in clock.MOVED.items() for column in columns}
    assert set(columns) == moved | NOT_MOVED


def test_a_retry_is_due_after_its_time_and_not_before(kit, client):
    sent = failed_once(kit, timedelta(hours=1))
    kit.advance(timedelta(minutes=55))
    kit.tick()
    assert client.receive("orders", "shipping") == []
    kit.advance(5 * MINUTE)
    kit.tick()
    [again] = client.receive("orders", "shipping")
    assert (again.msg_id, again.retry_count) == (sent, 1)


def test_an_infinite_retry_is_never_due(kit, client):
    failed_once(kit, timedelta.max)
    kit.advance(timedelta(days=365))
    kit.tick()
    assert client.receive("orders", "shipping") == []


def test_a_log_is_rotated_after_its_period(kit, client, autoconn):
    client.send("orders", "x")
    kit.tick()
    client.ack(client.receive("orders", "shipping")[0].batch_id)
    current = "select queue_cur_table from pgque.queue"
    assert kit.maintain() == 0
    kit.advance(timedelta(hours=2))
    assert kit.maintain() == 1
    assert autoconn.execute(current).fetchone() == (1,)
    for _ in range(2):
        kit.advance(timedelta(hours=2))
        kit.maintain()
    assert kit.sent("orders") == []


def test_a_member_that_was_silent_for_long_is_dead(kit, client):
    kit.queue("jobs")
    for member in ("a", "b"):
        client.subscribe_subconsumer("jobs", "crew", member)
    client.send("jobs", "x")
    kit.tick()
    [held] = client.receive_coop("jobs", "crew", "a")
    assert client.receive_coop("jobs", "crew", "b", dead_interval=MINUTE) == []
    kit.advance(2 * MINUTE)
    [taken] = client.receive_coop("jobs", "crew", "b", dead_interval=MINUTE)
    assert taken.msg_id == held.msg_id


def test_events_dead_letters_and_consumers_grow_older(kit, client):
    kit.queue("orders", max_retries=0)
    failed_once(kit)
    kit.advance(timedelta(days=40))
    [sent] = kit.sent("orders")
    assert datetime.now(timezone.utc) - sent.created_at > timedelta(days=39)
    [consumer] = client.consumer_info("orders")
    assert consumer.last_seen > timedelta(days=39)
    assert client.purge("orders", timedelta(days=30)) == 1


def test_seek_still_finds_an_earlier_time(kit, client):
    kit.tick()
    kit.advance(timedelta(hours=1))
    client.send("orders", "late")
    kit.tick()
    half_an_hour_ago = datetime.now(timezone.utc) - timedelta(minutes=30)
    client.seek("orders", "shipping", half_an_hour_ago)
    assert [message.payload for message in client.receive("orders", "shipping")] == ["late"]


def test_events_sent_before_a_move_are_delivered_after_it(kit, client):
    ids = client.send_batch("orders", "t", range(3))
    kit.advance(timedelta(hours=3))
    ids += client.send_batch("orders", "t", range(3))
    kit.tick()
    assert [message.msg_id for message in client.receive("orders", "shipping")] == ids


def test_time_cannot_be_moved_back(autoconn):
    with pytest.raises(PgqueInvalidArgument, match="time does not go back"):
        advance(autoconn, -1)
    with pytest.raises(PgqueInvalidArgument, match="span"):
        advance(autoconn, "an hour")


def test_only_the_owner_can_move_the_clock(kit, autoconn):
    autoconn.execute("set role pgque_admin")
    with pytest.raises(PgquePermissionDenied, match="only the owner of the schema pgque"):
        advance(autoconn, 1)


def test_advance_does_not_wait_long_for_another_sessions_transaction(kit, connect, monkeypatch):
    monkeypatch.setattr(clock, "_PATIENCE", b"set local lock_timeout = '20ms'")
    other = connect()
    other.execute("select from pgque.queue for update")
    with pytest.raises(PgqueBusy, match="open elsewhere"):
        kit.advance(1)
    other.rollback()
    kit.advance(1)


def test_the_clock_cannot_be_moved_inside_the_callers_transaction(conn):
    with Kit(conn) as kit:
        conn.execute("select 1")
        with pytest.raises(PgqueInvalidArgument, match="inside of a transaction"):
            kit.advance(1)
