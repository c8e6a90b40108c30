"""Sending (sql/send, sql/log)."""

import json

import pytest

from tests.fix_engine import (
    configure,
    drain,
    ids,
    payloads,
    receive,
    refused,
    send,
    subscribe,
    tick,
    value,
)

TYPED = [
    ("pgque.send(%s, 'x'::text)", "default", "x"),
    ('pgque.send(%s, \'{"b":1, "a" : [2]}\'::jsonb)', "default", '{"a": [2], "b": 1}'),
    ("pgque.send(%s, 't', 'x'::text)", "t", "x"),
    ("pgque.send(%s, 't', '  null '::jsonb)", "t", "null"),
    ("pgque.send(%s, ' {\"b\":1} ')", "default", ' {"b":1} '),
    ("pgque.send(%s, 't', ' 1 ')", "t", " 1 "),
    ("pgque.send(queue_name := %s, payload := 'x'::text)", "default", "x"),
    ("pgque.send(payload := '1'::jsonb, queue_name := %s)", "default", "1"),
    ("pgque.send(queue_name := %s, type_name := 't', payload := 'x'::text)", "t", "x"),
    ("pgque.send(queue_name := %s, type_name := 't', payload := '1'::jsonb)", "t", "1"),
    ("pgque.send(%s, null::text)", "default", None),
    ("pgque.send(%s, null::jsonb)", "default", None),
    ("pgque.send(%s, null, null::text)", None, None),
    ("pgque.insert_event(%s, 't', 'x')", "t", "x"),
    ("pgque.insert_event(queue_name := %s, ev_type := 't', ev_data := 'x')", "t", "x"),
    ("pgque.insert_event(%s, null, null)", None, None),
    ("(pgque.send_batch(%s, '{x}'::text[]))[1]", "default", "x"),
    ("(pgque.send_batch(%s, array['[1,2]']::jsonb[]))[1]", "default", "[1, 2]"),
    ("(pgque.send_batch(%s, 't', '{x}'::text[]))[1]", "t", "x"),
    ("(pgque.send_batch(%s, 't', array['1']::jsonb[]))[1]", "t", "1"),
    ("(pgque.send_batch(queue_name := %s, payloads := '{x}'::text[]))[1]", "default", "x"),
]


@pytest.mark.parametrize(("call", "event_type", "payload"), TYPED)
def test_every_send_call_stores_type_and_payload_and_returns_the_id(
    shared, shared_queue, call, event_type, payload
):
    event_id = value(shared, f"select {call}", shared_queue)
    [message] = drain(shared, shared_queue, "c")
    assert (message.msg_id, message.type, message.payload) == (event_id, event_type, payload)
    assert message.retry_count == 0
    assert message[6:] == (None,) * 4
    assert value(shared, "select now() - %s < '1 minute'", message.created_at)


def test_send_batch_accepts_named_arguments(autoconn, queue, consumer):
    for call in (
        "pgque.send_batch(queue_name := %s, payloads := array['1', '2']::jsonb[])",
        "pgque.send_batch(queue_name := %s, type_name := 't', payloads := array['1', '2'])",
        "pgque.send_batch(queue_name := %s, type_name := 't', payloads := '{1,2}'::jsonb[])",
    ):
        sent = value(autoconn, f"select {call}", queue)
        messages = drain(autoconn, queue, consumer)
        assert (ids(messages), payloads(messages)) == (sent, ["1", "2"])


def test_insert_event_stores_the_four_extra_fields(autoconn, queue, consumer):
    by_name = (
        "select pgque.insert_event(queue_name := %s, ev_type := 't', ev_data := 'd', "
        "ev_extra1 := 'a', ev_extra2 := 'b', ev_extra3 := null, ev_extra4 := 'd')"
    )
    value(autoconn, by_name, queue)
    value(autoconn, "select pgque.insert_event(%s, 't', 'd', '1', '2', '3', '4')", queue)
    first, second = drain(autoconn, queue, consumer)
    assert first[6:] == ("a", "b", None, "d")
    assert second[6:] == ("1", "2", "3", "4")


def test_text_is_stored_byte_for_byte(autoconn, queue, consumer):
    text = ' {"b":1,\t"a":\n2}  é🐘\\u0000\x01\x7f '
    send(autoconn, queue, text)
    send(autoconn, queue, "")
    assert payloads(drain(autoconn, queue, consumer)) == [text, ""]


def test_p8_a_payload_of_a_megabyte_arrives_whole(autoconn, queue, consumer):
    text = json.dumps(["é" * 10] * 60_000)
    send(autoconn, queue, text)
    assert payloads(drain(autoconn, queue, consumer)) == [text]


def test_p4_send_batch_returns_one_id_per_payload_in_input_order(autoconn, queue, consumer):
    texts = [str(n) for n in range(1000, 0, -1)]
    sent = value(autoconn, "select pgque.send_batch(%s, %s::text[])", queue, texts)
    assert sent == list(range(sent[0], sent[0] + 1000))
    messages = drain(autoconn, queue, consumer, 300)
    assert list(zip(sent, texts, strict=True)) == [(m.msg_id, m.payload) for m in messages]


def test_send_batch_with_headers_stores_them_with_each_event(autoconn, queue, consumer):
    texts = [str(n) for n in range(1000, 0, -1)]
    call = "select pgque.send_batch(%s, 'kind', %s::text[], %s)"
    sent = value(autoconn, call, queue, texts, '{"a":1}')
    plain = value(autoconn, call, queue, ["x", None], None)
    assert value(autoconn, call, queue, [], '{"a":1}') == []
    messages = drain(autoconn, queue, consumer, 300)
    assert [m.msg_id for m in messages] == [*sent, *plain]
    assert [m.payload for m in messages] == [*texts, "x", None]
    assert {(m.type, m.extra1, m.extra2) for m in messages[:1000]} == {("kind", None, '{"a":1}')}
    assert {m.extra2 for m in messages[1000:]} == {None}
    with refused("22023", "payloads must not be null"):
        autoconn.execute("select pgque.send_batch('nobody', 't', null, '{}')")
    with refused("PQ001", "queue not found: nobody"):
        autoconn.execute("select pgque.send_batch('nobody', 't', '{x}', '{}')")


def test_null_elements_are_stored_as_null(autoconn, queue, consumer):
    for array in ("array[null, 'a', null]::text[]", "array[null, '\"a\"']::jsonb[]"):
        sent = value(autoconn, f"select pgque.send_batch(%s, {array})", queue)
        messages = drain(autoconn, queue, consumer)
        assert ids(messages) == sent
        assert messages[0].payload is None
        assert messages[1].payload in ("a", '"a"')


def test_arrays_of_other_shapes_are_read_in_storage_order(autoconn, queue, consumer):
    value(autoconn, "select pgque.send_batch(%s, '[5:6]={a,b}'::text[])", queue)
    value(autoconn, "select pgque.send_batch(%s, '{{c,d},{e,f}}'::text[])", queue)
    assert payloads(drain(autoconn, queue, consumer)) == list("abcdef")


@pytest.mark.parametrize("kind", ["text[]", "jsonb[]"])
@pytest.mark.parametrize("queue_name", ["nobody", None])
def test_an_empty_array_returns_an_empty_one_without_checking_the_queue(shared, kind, queue_name):
    for arguments in ("", "'t', "):
        call = f"select pgque.send_batch(%s, {arguments}'{{}}'::{kind})"
        assert value(shared, call, queue_name) == []


@pytest.mark.parametrize("kind", ["text[]", "jsonb[]"])
def test_p10_a_null_array_is_refused(shared, kind):
    for arguments in ("", "'t', "):
        with refused("22023", "payloads must not be null"):
            shared.execute(f"select pgque.send_batch('nobody', {arguments}null::{kind})")


@pytest.mark.parametrize(("call", "event_type", "payload"), TYPED)
def test_p10_a_write_disabled_queue_refuses_every_send(
    shared, shared_queue, call, event_type, payload
):
    configure(shared, shared_queue, disable_insert=True)
    with refused("PQ006", f"Insert into queue disallowed: {shared_queue}"):
        shared.execute(f"select {call}".encode(), [shared_queue])
    configure(shared, shared_queue, disable_insert=None)
    value(shared, f"select {call}", shared_queue)
    assert payloads(drain(shared, shared_queue, "c")) == [payload]


def test_p1_a_rolled_back_transaction_is_never_delivered(conn, autoconn, queue, consumer):
    send(conn, queue, "undone")
    conn.rollback()
    send(conn, queue, "done")
    conn.commit()
    assert payloads(drain(autoconn, queue, consumer)) == ["done"]


def test_p1_a_rolled_back_savepoint_is_never_delivered(conn, autoconn, queue, consumer):
    send(conn, queue, "before")
    for depth in range(3):
        conn.execute(f"savepoint s{depth}".encode())
        send(conn, queue, f"undone {depth}")
    conn.execute("rollback to savepoint s0")
    send(conn, queue, "between")
    conn.execute("savepoint kept")
    send(conn, queue, "kept")
    conn.execute("release savepoint kept")
    send(conn, queue, "after")
    tick(autoconn, queue)
    conn.commit()
    assert payloads(drain(autoconn, queue, consumer)) == ["before", "between", "kept", "after"]


def test_p1_an_exception_block_undoes_only_its_own_sends(autoconn, queue, consumer):
    autoconn.execute(
        """
        do $$
        begin
            perform pgque.send('Q', 'kept'::text);
            begin
                perform pgque.send('Q', 'undone'::text);
                raise exception 'no';
            exception
                when others then perform pgque.send('Q', 'instead'::text);
            end;
        end
        $$""".replace("Q", queue)
    )
    assert payloads(drain(autoconn, queue, consumer)) == ["kept", "instead"]


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_p2_every_isolation_level_can_send(connect, autoconn, queue, consumer, level):
    producer = connect()
    producer.execute(f"set transaction isolation level {level}".encode())
    send(producer, queue, level)
    tick(autoconn, queue)
    producer.commit()
    assert payloads(drain(autoconn, queue, consumer)) == [level]


def test_p2_a_transaction_that_sent_can_be_prepared_while_the_ticker_sleeps(
    conn, autoconn, queue, consumer
):
    # The flag dates from before prepared transactions were enabled. A send that answered it with
    # a notification could not be prepared.
    value(autoconn, "select setval('pgque.wake_flag', 2)")
    send(conn, queue, "prepared")
    conn.execute("prepare transaction 'prepared send'")
    assert drain(autoconn, queue, consumer) == []
    autoconn.execute("commit prepared 'prepared send'")
    assert payloads(drain(autoconn, queue, consumer)) == ["prepared"]


def test_p5_a_send_never_waits(connect, autoconn, queue, consumer):
    """Not for open senders, a subscription, a receive, a tick or a change of settings."""
    send(autoconn, queue)
    tick(autoconn, queue)
    for step in (
        lambda c: send(c, queue),
        lambda c: value(c, "select pgque.subscribe(%s, 'another')", queue),
        lambda c: receive(c, queue, consumer),
        lambda c: tick(c, queue),
        lambda c: configure(c, queue, max_retries=3),
    ):
        other = connect()
        step(other)
        autoconn.execute("set lock_timeout = '1s'")
        send(autoconn, queue)
        other.rollback()


def test_p7_a_send_does_not_notify_while_the_ticker_is_awake(connect, autoconn, queue):
    listener = connect(autocommit=True)
    listener.execute("listen pgque_ticker")
    send(autoconn, queue)
    listener.execute("select 1")
    assert list(listener.notifies(timeout=0)) == []


def test_created_at_is_the_time_of_the_send_not_of_the_transaction(conn, autoconn, queue, consumer):
    conn.execute("select pg_sleep(0.01)")
    send(conn, queue)
    later = value(conn, "select clock_timestamp()")
    begun = value(conn, "select now()")
    conn.commit()
    [message] = drain(autoconn, queue, consumer)
    assert begun < message.created_at < later


def test_p10_a_failed_send_leaves_the_connection_usable(conn, autoconn, queue, consumer):
    with refused("PQ001", "queue not found: nobody"), conn.transaction():
        send(conn, "nobody")
    send(conn, queue, "next")
    conn.commit()
    assert payloads(drain(autoconn, queue, consumer)) == ["next"]


def test_p1_every_consumer_subscribed_at_the_time_of_the_send_gets_the_event(autoconn, queue):
    subscribe(autoconn, queue, "early")
    send(autoconn, queue, "first")
    tick(autoconn, queue)
    subscribe(autoconn, queue, "late")
    send(autoconn, queue, "second")
    assert payloads(drain(autoconn, queue, "early")) == ["first", "second"]
    assert payloads(drain(autoconn, queue, "late")) == ["second"]
