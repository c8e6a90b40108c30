"""Dead letters (sql/dead)."""

import pytest

from tests.fix_engine import (
    Thread,
    ack,
    column,
    configure,
    drain,
    is_blocked,
    nack,
    payloads,
    receive,
    refused,
    subscribe,
    tick,
    value,
)
from tests.running import eventually


def bury(conn, queue, consumer, count=1) -> list[int]:
    """Make `count` events dead letters of the consumer; return the dl_ids, oldest first."""
    configure(conn, queue, max_retries=0)
    for n in range(count):
        value(
            conn, "select pgque.insert_event(%s, 't', %s, 'a', 'b', null, 'd')", queue, f"dead {n}"
        )
    tick(conn, queue)
    batch = receive(conn, queue, consumer)
    for message in batch:
        nack(conn, message, reason=f"no {message.payload}")
    ack(conn, batch)
    return column(conn, "select dl_id from pgque.dead_letter order by dl_id")[-count:]


def test_a_dead_letter_holds_the_event_the_consumer_and_the_reason(autoconn, queue, consumer):
    [dl_id] = bury(autoconn, queue, consumer)
    row = autoconn.execute(
        "select queue_name, co_name, dl_reason, ev_type, ev_data, ev_extra1, ev_extra2, "
        "ev_extra3, ev_extra4, ev_retry, now() - dl_time < '1 minute', ev_time < dl_time, "
        "ev_txid is not null, ev_id, dl_id "
        "from pgque.dead_letter "
        "join pgque.queue on queue_id = dl_queue_id "
        "join pgque.consumer on co_id = dl_consumer_id"
    ).fetchone()
    expected = (queue, consumer, "no dead 0", "t", "dead 0", "a", "b", None, "d", 0)
    assert row == (*expected, True, True, True, 1, dl_id)


def test_inspect_returns_the_newest_first_up_to_the_limit(autoconn, queue, consumer):
    written = bury(autoconn, queue, consumer, 5)
    inspect = "select dl_id from pgque.dlq_inspect(%s, %s)"
    assert column(autoconn, inspect, queue, 3) == written[:1:-1]
    assert column(autoconn, inspect, queue, 0) == []
    named = "select dl_id from pgque.dlq_inspect(queue := %s)"
    assert column(autoconn, named, queue) == written[::-1]
    for count in (-1, None):
        with refused("22023", "limit_count must be >= 0"):
            autoconn.execute("select pgque.dlq_inspect(%s, %s::int)", [queue, count])


def test_inspect_returns_a_hundred_by_default(autoconn, queue, consumer):
    bury(autoconn, queue, consumer, 60)
    bury(autoconn, queue, consumer, 60)
    assert len(column(autoconn, "select dl_id from pgque.dlq_inspect(%s)", queue)) == 100


def test_replay_sends_a_new_event_to_every_consumer_and_removes_the_entry(
    autoconn, queue, consumer
):
    subscribe(autoconn, queue, "other")
    [dl_id] = bury(autoconn, queue, consumer)
    event_id = value(autoconn, "select pgque.dlq_replay(dead_letter_id := %s)", dl_id)
    assert value(autoconn, "select count(*) from pgque.dead_letter") == 0
    [message] = drain(autoconn, queue, consumer)
    assert message[0] == event_id
    assert message[2:5] == ("t", "dead 0", 0)
    assert message[6:] == ("a", "b", None, "d")
    assert payloads(drain(autoconn, queue, "other")) == ["dead 0", "dead 0"]


@pytest.mark.parametrize("entry", [12345, None])
def test_p10_the_error_names_a_missing_entry(autoconn, entry):
    text = "<NULL>" if entry is None else entry
    with refused("PQ005", f"dead letter entry not found: {text}"):
        autoconn.execute("select pgque.dlq_replay(%s)", [entry])


def test_p10_a_failed_replay_keeps_the_entry(autoconn, queue, consumer):
    [dl_id] = bury(autoconn, queue, consumer)
    configure(autoconn, queue, disable_insert=True)
    with refused("PQ006", "Insert into queue disallowed"):
        autoconn.execute("select pgque.dlq_replay(%s)", [dl_id])
    assert column(autoconn, "select dl_id from pgque.dead_letter") == [dl_id]


def test_p5_only_one_of_two_replays_of_an_entry_succeeds(connect, autoconn, queue, consumer):
    [dl_id] = bury(autoconn, queue, consumer)
    first, second = connect(), connect(autocommit=True)
    value(first, "select pgque.dlq_replay(%s)", dl_id)
    waiting = Thread(lambda: value(second, "select pgque.dlq_replay(%s)", dl_id))
    eventually(lambda: is_blocked(autoconn, second))
    first.commit()
    with refused("PQ005", "dead letter entry not found"):
        waiting.outcome()
    assert payloads(drain(autoconn, queue, consumer)) == ["dead 0"]


def test_replay_all_replays_oldest_first_and_returns_the_count(autoconn, queue, consumer):
    value(autoconn, "select pgque.create_queue('other')")
    subscribe(autoconn, "other", "c")
    bury(autoconn, "other", "c")
    bury(autoconn, queue, consumer, 3)
    columns = "replayed, failed, first_error"
    query = f"select {columns} from pgque.dlq_replay_all(queue := %s)"
    assert autoconn.execute(query, [queue]).fetchone() == (3, 0, None)
    assert payloads(drain(autoconn, queue, consumer)) == ["dead 0", "dead 1", "dead 2"]
    assert value(autoconn, "select count(*) from pgque.dead_letter") == 1


def test_replay_all_reports_the_first_failure_and_keeps_that_entry(autoconn, queue, consumer):
    bury(autoconn, queue, consumer, 3)
    configure(autoconn, queue, disable_insert=True)
    query = "select * from pgque.dlq_replay_all(%s)"
    error = f"Insert into queue disallowed: {queue}"
    assert autoconn.execute(query, [queue]).fetchone() == (0, 3, error)
    assert value(autoconn, "select count(*) from pgque.dead_letter") == 3


def test_purge_removes_entries_that_are_old_enough(autoconn, queue, consumer):
    written = bury(autoconn, queue, consumer, 4)
    for n, age in enumerate(("40 days", "20 days", "2 hours", "0 hours")):
        autoconn.execute(
            "update pgque.dead_letter set dl_time = now() - %s::interval where dl_id = %s",
            [age, written[n]],
        )
    purge = "select pgque.dlq_purge(%s, %s::interval)"
    assert value(autoconn, "select pgque.dlq_purge(queue := %s)", queue) == 1
    assert value(autoconn, purge, queue, "1 day") == 1
    assert column(autoconn, "select dl_id from pgque.dead_letter") == written[2:]
    with refused("22023", "older_than must not be null"):
        autoconn.execute(purge, [queue, None])
    assert value(autoconn, purge, queue, "0") == 2


def test_event_dead_stores_the_given_fields_once(autoconn, queue, consumer):
    value(autoconn, "select pgque.send(%s, 'x'::text)", queue)
    tick(autoconn, queue)
    [message] = receive(autoconn, queue, consumer)
    named = (
        "select pgque.event_dead(batch_id := %s, event_id := %s, reason := 'r', ev_time := %s, "
        "ev_txid := '7', ev_retry := 3, ev_type := 't', ev_data := 'd', ev_extra4 := 'e')"
    )
    parameters = [message.batch_id, message.msg_id, message.created_at]
    assert [value(autoconn, named, *parameters) for _ in range(2)] == [1, 0]
    row = autoconn.execute(
        "select dl_reason, ev_id, ev_time, ev_txid::text, ev_retry, ev_type, ev_data, ev_extra1, "
        "ev_extra4 from pgque.dead_letter"
    ).fetchone()
    assert row == ("r", message.msg_id, message.created_at, "7", 3, "t", "d", None, "e")
    with refused("22023", "event_id must not be null"):
        autoconn.execute(
            "select pgque.event_dead(%s, null, 'r', now(), '1', 0, 't', 'd')", [message.batch_id]
        )
    ack(autoconn, message.batch_id)


def test_dead_letters_outlive_the_subscription(autoconn, queue, consumer):
    bury(autoconn, queue, consumer)
    value(autoconn, "select pgque.unsubscribe(%s, %s)", queue, consumer)
    query = (
        "select co_name from pgque.dlq_inspect(%s) join pgque.consumer on co_id = dl_consumer_id"
    )
    assert column(autoconn, query, queue) == [consumer]
    assert value(autoconn, "select replayed from pgque.dlq_replay_all(%s)", queue) == 1


def test_one_event_can_be_a_dead_letter_of_two_consumers(autoconn, queue, consumer):
    subscribe(autoconn, queue, "other")
    bury(autoconn, queue, consumer)
    [message] = receive(autoconn, queue, "other")
    nack(autoconn, message)
    assert value(autoconn, "select count(*) from pgque.dead_letter") == 2
