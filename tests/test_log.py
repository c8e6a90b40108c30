"""Queues and their logs (sql/log): creating, dropping, settings, names."""

import pytest

from tests.fix_engine import (
    Thread,
    ack,
    column,
    configure,
    drain,
    is_blocked,
    log_of,
    nack,
    payloads,
    receive,
    refused,
    send,
    subscribe,
    tick,
    value,
)
from tests.running import PATIENCE, eventually

NAMES = {
    "57 bytes": "q" * 57,
    "57 bytes of two-byte letters and one": "é" * 28 + "e",
    "single quote": "o'clock",
    "double quote": 'say "hello"',
    "dots": "a.b.c",
    "spaces and a new line": " a \n b ",
    "percent and backslash": r"100%s \d",
    "unicode": "очередь-队列-🐘",
    "upper case": "Orders",
    "sql": "x'; drop schema pgque; --",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_queue_with_any_name_works_from_send_to_notify(shared, name):
    assert value(shared, "select pgque.create_queue(%s)", name) == 1
    subscribe(shared, name, name + name)
    quoted = value(shared, "select quote_ident('pgque_' || %s)", name)
    shared.execute(f"listen {quoted}".encode())
    send(shared, name, "hello")
    assert payloads(drain(shared, name, name + name)) == ["hello"]
    [notification] = shared.notifies(timeout=PATIENCE, stop_after=1)
    assert (notification.channel, notification.payload) == (f"pgque_{name}", "2")
    assert value(shared, "select pgque.drop_queue(%s, true)", name) == 1


def settings_of(conn, queue):
    return conn.execute(
        "select queue_max_retries, queue_ticker_max_lag::text, queue_ticker_paused "
        "from pgque.queue where queue_name = %s",
        [queue],
    ).fetchone()


def test_create_queue_applies_its_settings(autoconn):
    options = '{"max_retries": 2, "ticker_max_lag": "3 seconds", "ticker_paused": true}'
    assert value(autoconn, "select pgque.create_queue('q', %s::jsonb)", options) == 1
    assert settings_of(autoconn, "q") == (2, "00:00:03", True)
    assert value(autoconn, "select pgque.create_queue('r', '{\"max_retries\": null}')") == 1
    assert value(autoconn, "select pgque.create_queue('s', null)") == 1
    assert value(autoconn, "select pgque.create_queue('t', '{}')") == 1
    for name in "rst":
        assert settings_of(autoconn, name) == (5, "00:00:00", False)


def test_an_existing_queue_keeps_its_settings(autoconn, queue):
    configure(autoconn, queue, max_retries="7")
    call = 'select pgque.create_queue(%s, \'{"max_retries": 2, "ticker_paused": true}\')'
    assert value(autoconn, call, queue) == 0
    assert settings_of(autoconn, queue) == (7, "00:00:00", False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ('{"max_retries": 2, "colour": "red"}', "unknown queue setting: colour"),
        ('{"ticker_paused": true, "max_retries": -1}', "max_retries must be >= 0"),
        ('{"max_retries": "many"}', "max_retries must be of type integer, not 'many'"),
        ('{"max_retries": [1]}', "max_retries must be of type integer, not '[1]'"),
        ("[]", "options must be a JSON object, not array"),
        ("null", "options must be a JSON object, not null"),
        ('"max_retries"', "options must be a JSON object, not string"),
    ],
)
def test_p10_wrong_options_create_no_queue(autoconn, options, text):
    with refused("22023", text), autoconn.transaction():
        value(autoconn, "select pgque.create_queue('q', %s::jsonb)", options)
    assert column(autoconn, "select queue_name from pgque.queue") == []
    assert column(autoconn, "select relname from pg_class where relname ~ '^event_[0-9]'") == []


def test_names_that_differ_in_case_are_different_queues(autoconn):
    assert [value(autoconn, "select pgque.create_queue(%s)", name) for name in "qQ"] == [1, 1]


@pytest.mark.parametrize("name", ["q" * 58, "é" * 29], ids=["letters", "two-byte letters"])
def test_p10_a_name_of_58_bytes_is_refused(autoconn, name):
    with refused("22023", "queue name too long: 58 bytes (max 57)"):
        autoconn.execute("select pgque.create_queue(%s)", [name])
    assert column(autoconn, "select queue_name from pgque.queue") == []


@pytest.mark.parametrize("name", ["", None])
def test_p10_an_empty_name_is_refused(autoconn, name):
    with refused("22023", "queue name must not be empty"):
        autoconn.execute("select pgque.create_queue(%s)", [name])


def test_create_queue_returns_0_if_the_queue_exists(autoconn, queue):
    assert value(autoconn, "select pgque.create_queue(%s)", queue) == 0


def test_p5_two_sessions_that_create_one_name_create_one_queue(connect):
    first, second = connect(), connect()
    assert value(first, "select pgque.create_queue('q')") == 1
    creator = Thread(lambda: value(second, "select pgque.create_queue('q')"))
    watcher = connect(autocommit=True)
    eventually(lambda: is_blocked(watcher, second))
    first.commit()
    assert creator.outcome() == 0


def test_a_dropped_queue_leaves_nothing_behind(autoconn, queue, consumer):
    log = log_of(autoconn, queue)
    configure(autoconn, queue, max_retries=0)
    for _ in range(2):
        send(autoconn, queue)
    tick(autoconn, queue)
    first, second = receive(autoconn, queue, consumer)
    nack(autoconn, first)
    configure(autoconn, queue, max_retries=5)
    nack(autoconn, second, "1 hour")
    assert value(autoconn, "select pgque.drop_queue(%s, true)", queue) == 1
    for table in ("queue", "subscriber", "retry_queue", "dead_letter"):
        assert value(autoconn, f"select count(*) from pgque.{table}") == 0
    relations = "select count(*) from pg_class where oid::regclass::text like %s || '%%'"
    assert value(autoconn, relations, log) == 0


def test_p10_drop_queue_without_force_refuses_while_consumers_are_attached(
    autoconn, queue, consumer
):
    for statement in ("select pgque.drop_queue(%s)", "select pgque.drop_queue(%s, null)"):
        with refused("PQ009", "cannot drop queue, consumers still attached"):
            autoconn.execute(statement, [queue])
    assert value(autoconn, "select pgque.unsubscribe(%s, %s)", queue, consumer) == 1
    assert value(autoconn, "select pgque.drop_queue(%s)", queue) == 1


def test_drop_queue_with_force_removes_groups_too(autoconn, queue):
    for member in ("a", "b"):
        value(autoconn, "select pgque.subscribe_subconsumer(%s, 'group', %s)", queue, member)
    assert value(autoconn, "select pgque.drop_queue(%s, force := true)", queue) == 1
    assert value(autoconn, "select count(*) from pgque.subscriber") == 0


def test_a_queue_created_again_starts_empty(autoconn, queue, consumer):
    send(autoconn, queue, "old")
    tick(autoconn, queue)
    value(autoconn, "select pgque.drop_queue(%s, true)", queue)
    value(autoconn, "select pgque.create_queue(%s)", queue)
    subscribe(autoconn, queue, consumer)
    send(autoconn, queue, "new")
    assert payloads(drain(autoconn, queue, consumer)) == ["new"]


def test_p5_drop_queue_waits_for_a_working_consumer_and_leaves_no_orphans(
    connect, autoconn, queue, consumer
):
    send(autoconn, queue)
    tick(autoconn, queue)
    worker, dropper = connect(), connect(autocommit=True)
    [message] = receive(worker, queue, consumer)
    drop = Thread(lambda: value(dropper, "select pgque.drop_queue(%s, true)", queue))
    eventually(lambda: is_blocked(autoconn, dropper))
    nack(worker, message, "1 hour")
    ack(worker, message.batch_id)
    worker.commit()
    assert drop.outcome() == 1
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 0


def test_p5_drop_queue_waits_for_an_open_subscription_and_later_ones_fail(connect, autoconn, queue):
    early, dropper, late = connect(), connect(), connect(autocommit=True)
    assert value(early, "select pgque.subscribe(%s, 'early')", queue) == 1
    drop = Thread(lambda: value(dropper, "select pgque.drop_queue(%s, true)", queue))
    eventually(lambda: is_blocked(autoconn, dropper))
    early.commit()
    assert drop.outcome() == 1
    subscription = Thread(lambda: value(late, "select pgque.subscribe(%s, 'late')", queue))
    eventually(lambda: is_blocked(autoconn, late))
    dropper.commit()
    with refused("PQ001", f"queue not found: {queue}"):
        subscription.outcome()


SETTINGS = {
    "ticker_max_count": ("7", 7),
    "ticker_max_lag": ("90 seconds", "00:01:30"),
    "ticker_idle_period": ("2 minutes", "00:02:00"),
    "ticker_paused": ("true", True),
    "rotation_period": ("1 day", "1 day"),
    "external_ticker": ("yes", True),
    "max_retries": ("0", 0),
    "disable_insert": ("on", True),
}


@pytest.mark.parametrize("param", SETTINGS)
def test_a_setting_is_stored_and_null_restores_its_default(shared, shared_queue, param):
    def stored():
        kind = "::text" if isinstance(SETTINGS[param][1], str) else ""
        return value(
            shared,
            f"select queue_{param}{kind} from pgque.queue where queue_name = %s",
            shared_queue,
        )

    default = stored()
    text, expected = SETTINGS[param]
    change = "select pgque.set_queue_config(queue := %s, param := %s, value := %s)"
    assert value(shared, change, shared_queue, param, text) == 1
    assert stored() == expected != default
    assert value(shared, change, shared_queue, param, None) == 1
    assert stored() == default


@pytest.mark.parametrize(
    ("param", "text", "error"),
    [
        ("max_retries", "-1", "max_retries must be >= 0"),
        ("max_retries", "many", "max_retries must be of type integer, not 'many'"),
        ("max_retries", "99999999999", "max_retries must be of type integer, not '99999999999'"),
        ("ticker_max_count", "0", "ticker_max_count must be >= 1"),
        ("ticker_max_lag", "-1 second", "ticker_max_lag must be >= 0"),
        ("ticker_idle_period", "soon", "ticker_idle_period must be of type interval, not 'soon'"),
        ("rotation_period", "0", "rotation_period must be > 0"),
        ("rotation_period", "-1 day", "rotation_period must be > 0"),
        ("ticker_paused", "maybe", "ticker_paused must be of type boolean, not 'maybe'"),
        ("external_ticker", "", "external_ticker must be of type boolean, not ''"),
        ("queue_name", "x", "unknown queue setting: queue_name"),
        ("cur_table", "1", "unknown queue setting: cur_table"),
        ("max_retries; drop", "1", "unknown queue setting: max_retries; drop"),
        (None, "1", "unknown queue setting: <NULL>"),
    ],
)
def test_p10_the_error_names_a_bad_setting(shared, shared_queue, param, text, error):
    before = shared.execute("select * from pgque.queue").fetchall()
    with refused("22023", error):
        shared.execute("select pgque.set_queue_config(%s, %s, %s)", [shared_queue, param, text])
    assert shared.execute("select * from pgque.queue").fetchall() == before


@pytest.mark.parametrize("name", ["nobody", None])
@pytest.mark.parametrize(
    "call",
    [
        "pgque.send(%s, 'x'::text)",
        "pgque.send(%s, '1'::jsonb)",
        "pgque.send(%s, 't', 'x'::text)",
        "pgque.send_batch(%s, '{x}'::text[])",
        "pgque.send_batch(%s, 't', '{1}'::jsonb[])",
        "pgque.insert_event(%s, 't', 'x')",
        "pgque.insert_event(%s, 't', 'x', null, null, null, null)",
        "pgque.drop_queue(%s)",
        "pgque.drop_queue(%s, true)",
        "pgque.set_queue_config(%s, 'max_retries', '1')",
        "pgque.ticker(%s)",
        "pgque.ticker(%s, 1, now(), 1)",
        "pgque.force_next_tick(%s)",
        "pgque.force_tick(%s)",
        "pgque.subscribe(%s, 'c')",
        "pgque.register_consumer(%s, 'c')",
        "pgque.register_consumer_at(%s, 'c', 1)",
        "pgque.unsubscribe(%s, 'c')",
        "pgque.unregister_consumer(%s, 'c')",
        "pgque.receive(%s, 'c')",
        "pgque.receive_merged(%s, 'c')",
        "pgque.seek(%s, 'c', 1)",
        "pgque.seek(%s, 'c', now())",
        "pgque.next_batch(%s, 'c')",
        "pgque.next_batch_info(%s, 'c')",
        "pgque.next_batch_custom(%s, 'c', null, null, null)",
        "pgque.register_subconsumer(%s, 'c', 's')",
        "pgque.subscribe_subconsumer(%s, 'c', 's')",
        "pgque.unregister_subconsumer(%s, 'c', 's')",
        "pgque.unsubscribe_subconsumer(%s, 'c', 's')",
        "pgque.receive_coop(%s, 'c', 's')",
        "pgque.receive_coop_merged(%s, 'c', 's')",
        "pgque.next_batch(%s, 'c', 's')",
        "pgque.next_batch_custom(%s, 'c', 's', null, null, null)",
        "pgque.touch_subconsumer(%s, 'c', 's')",
        "pgque.maint_rotate_tables_step1(%s)",
        "pgque.dlq_inspect(%s)",
        "pgque.dlq_replay_all(%s)",
        "pgque.dlq_purge(%s)",
    ],
)
def test_p10_every_call_names_the_missing_queue(shared, call, name):
    with refused("PQ001", f"queue not found: {'<NULL>' if name is None else name}"):
        shared.execute(f"select {call}", [name])
