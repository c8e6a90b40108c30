"""Grants for single queues (sql/queue_grants): the permitted and the refused calls of a role."""

import uuid

import psycopg
import pytest
from psycopg import sql

import pgque
from pgque import Consumer, Message, PgqueClient
from tests.fix_engine import (
    ack,
    column,
    configure,
    drain,
    ids,
    nack,
    notices,
    payloads,
    receive,
    receive_coop,
    refused,
    send,
    subscribe,
    tick,
    value,
)
from tests.running import eventually, running
from tests.security.fix_security import grant, user


def test_a_role_with_grants_can_use_every_call_of_a_consumer(app, autoconn, queue):
    subscribe(app, queue, "mine")
    assert value(app, "select pgque.subscribe(%s, 'mine')", queue) == 0
    sent = [
        send(app, queue, "text"),
        value(app, "select pgque.send(%s, '[1]'::jsonb)", queue),
        value(app, "select pgque.send(%s, 'type', 'text')", queue),
        value(app, "select pgque.send(%s, 'type', '[2]'::jsonb)", queue),
        value(app, "select pgque.insert_event(%s, 'type', null)", queue),
        value(app, "select pgque.insert_event(%s, 't', 'd', '1', null, '3', '4')", queue),
        *value(app, "select pgque.send_batch(%s, array['a', null])", queue),
        *value(app, "select pgque.send_batch(%s, 'type', array['[3]']::jsonb[])", queue),
        *value(app, "select pgque.send_batch(%s, '{}'::text[])", queue),
    ]
    with refused("22023", "payloads must not be null"):
        app.execute("select pgque.send_batch(%s, null::text[])", [queue])
    tick(autoconn, queue)
    batch = receive(app, queue, "mine", 4)
    assert ids(batch) == sent[:4]
    assert nack(app, batch[0], "1 hour", "why") == 1
    assert ack(app, batch) == 1
    batch = receive(app, queue, "mine", merged=True)
    assert ids(batch) == sent[4:]
    assert (batch[0].payload, batch[1][6:]) == (None, ("1", None, "3", "4"))
    many = "select pgque.nack_many(%s, %s, '0', %s)"
    assert value(app, many, batch[0].batch_id, ids(batch)[:2], ["a", "b"]) == 2
    assert value(app, "select pgque.ack_part(%s, %s)", batch[0].batch_id, ids(batch)[:3]) == 2
    rest = receive(app, queue, "mine")
    assert ids(rest) == sent[7:]
    assert value(app, "select pgque.ack_or_fail(%s)", rest[0].batch_id) == ""
    with refused("PQ003", "batch not found"):
        app.execute("select pgque.ack_or_fail(%s)", [rest[0].batch_id])
    assert value(app, "select pgque.seek(%s, 'mine', 1)", queue) == 1
    assert value(app, "select pgque.seek(%s, 'mine', now())", queue) == 2
    assert value(app, "select pgque.unsubscribe(%s, 'mine')", queue) == 1
    assert value(app, "select pgque.unsubscribe(%s, 'mine')", queue) == 0


def test_a_role_with_grants_can_use_a_group(app, autoconn, queue):
    assert receive_coop(app, queue, "g", "a") == []
    assert value(app, "select pgque.subscribe_subconsumer(%s, 'g', 'b')", queue) == 1
    assert value(app, "select pgque.subscribe_subconsumer(%s, 'g', 'b')", queue) == 0
    assert value(app, "select pgque.subscribe_subconsumer(%s, 'new', 'a')", queue) == 1
    sent = [send(app, queue, n) for n in range(4)]
    tick(autoconn, queue)
    first = receive_coop(app, queue, "g", "a", 2)
    second = receive_coop(app, queue, "g", "b", 2, merged=True)
    assert ids(first) + ids(second) == sent
    assert value(app, "select pgque.touch_subconsumer(%s, 'g', 'a')", queue) == 1
    assert ack(app, first) == 1
    taken = receive_coop(app, queue, "g", "c", 2, "0 seconds")
    assert ids(taken) == sent[2:]
    with refused("PQ003", "batch not found"):
        nack(app, second[0])
    with refused("PQ007", "cooperative"):
        receive(app, queue, "g")
    assert value(app, "select pgque.unsubscribe_subconsumer(%s, 'g', 'c', 1)", queue) == 1
    names = column(app, "select consumer_name from pgque.get_consumer_info(%s)", queue)
    assert names == ["g", "g.a", "g.b", "new", "new.a"]


def test_a_producer_cannot_consume_and_a_consumer_cannot_produce(
    autoconn, queue, consumer, new_role, log_in
):
    producer, reader = new_role(), new_role()
    grant(autoconn, producer, queue, "produce")
    grant(autoconn, reader, queue, "consume")
    send(log_in(producer), queue)
    for call in (f"subscribe('{queue}', 'c')", f"receive('{queue}', '{consumer}')"):
        with refused("42501", f"no grant to consume on queue {queue}"):
            log_in(producer).execute(f"select pgque.{call}".encode())
    subscribe(log_in(reader), queue, "own")
    for call in ("send(%s, 'x')", "send_batch(%s, '{x}'::text[])", "insert_event(%s, 't', 'x')"):
        with refused("42501", f"no grant to produce on queue {queue}"):
            log_in(reader).execute(f"select pgque.{call}".encode(), [queue])
    assert len(drain(autoconn, queue, consumer)) == 1


CALLS_BY_QUEUE = """
    send(%(q)s, 'x'::text)|send(%(q)s, '1'::jsonb)|send(%(q)s, 't', 'x'::text)
    send(%(q)s, 't', '1'::jsonb)|send_batch(%(q)s, '{x}'::text[])|send_batch(%(q)s, '{1}'::jsonb[])
    send_batch(%(q)s, 't', '{x}'::text[])|send_batch(%(q)s, 't', '{1}'::jsonb[])
    insert_event(%(q)s, 't', 'x')|insert_event(%(q)s, 't', 'x', null, null, null, null)
    subscribe(%(q)s, 'c')|unsubscribe(%(q)s, 'c')|receive(%(q)s, 'c')|receive_merged(%(q)s, 'c')
    seek(%(q)s, 'c', 1)|seek(%(q)s, 'c', now())|receive_coop(%(q)s, 'c', 'm')
    receive_coop_merged(%(q)s, 'c', 'm')|touch_subconsumer(%(q)s, 'c', 'm')
    subscribe_subconsumer(%(q)s, 'c', 'm')|unsubscribe_subconsumer(%(q)s, 'c', 'm')
    get_queue_info(%(q)s)|get_consumer_info(%(q)s)|get_consumer_info(%(q)s, 'c')
    send_batch(%(q)s, 't', '{x}', '{}')|send(%(q)s, '1'::json)|send(%(q)s, 't', '1'::json)
    send_batch(%(q)s, '{1}'::json[])|send_batch(%(q)s, 't', '{1}'::json[])
    send_batch(%(q)s, '{x}')|send_batch(%(q)s, 't', '{x}')
    get_queue_wait(%(q)s)|get_consumer_wait(%(q)s)|get_consumer_wait(%(q)s, 'c')
""".replace("\n", "|").split("|")


def test_an_ungranted_queue_looks_like_a_missing_one(app, autoconn):
    value(autoconn, "select pgque.create_queue('other')")
    subscribe(autoconn, "other", "c")
    calls = [call.strip() for call in CALLS_BY_QUEUE if call.strip()]
    assert len(calls) == 34
    for call in calls:
        said = []
        for queue in ("other", "missing"):
            with pytest.raises(psycopg.Error) as caught:
                app.execute(f"select * from pgque.{call}".encode(), {"q": queue})
            diag = caught.value.diag
            parts = (diag.sqlstate, diag.message_primary, diag.message_detail, diag.message_hint)
            said.append(str(parts).replace(queue, "QUEUE"))
        assert said[0] == said[1]
        assert "PQ001" in said[0], call
    assert drain(autoconn, "other", "c") == []
    everything = "select queue_name from pgque.get_queue_info()"
    assert "other" not in column(app, everything)
    assert "other" not in column(app, "select queue_name from pgque.get_consumer_info()")
    assert "other" in column(autoconn, everything)


def test_a_batch_of_another_role_looks_like_a_missing_one(app, autoconn, queue, new_role, log_in):
    neighbour = new_role(name="neighbour")
    grant(autoconn, neighbour, queue, "consume")
    other = log_in(neighbour)
    subscribe(app, queue, "mine")
    subscribe(other, queue, "theirs")
    subscribe(autoconn, queue, "of_a_reader")
    send(app, queue)
    tick(autoconn, queue)
    theirs = [receive(other, queue, "theirs"), receive(autoconn, queue, "of_a_reader")]
    heard = notices(app)
    for batch in theirs:
        batch_id = batch[0].batch_id
        assert ack(app, batch) == 0
        for call in (
            "ack_or_fail(%(b)s)",
            "ack_part(%(b)s, '{1}')",
            "nack_many(%(b)s, '{1}')",
            "nack(%(b)s, row(1, null, null, null, null, null, null, null, null, null))",
        ):
            with refused("PQ003", f"batch not found: {batch_id}"):
                app.execute(f"select pgque.{call}".encode(), {"b": batch_id})
    assert len(heard) == 2
    for name in ("theirs", "of_a_reader", "missing"):
        for call in ("receive", "receive_merged"):
            with refused("PQ002", f"Not subscriber to queue: {queue}/{name}"):
                app.execute(f"select pgque.{call}(%s, %s)".encode(), [queue, name])
        with refused("PQ002", "Not subscriber"):
            app.execute("select pgque.seek(%s, %s, 1)", [queue, name])
        assert value(app, "select pgque.unsubscribe(%s, %s)", queue, name) == 0
        assert value(app, "select pgque.touch_subconsumer(%s, %s, 'm')", queue, name) == 0
    for name in ("theirs", "of_a_reader"):
        for call in ("subscribe(%s, %s)", "receive_coop(%s, %s, 'm')"):
            with refused("42501", "belongs to another role"):
                app.execute(f"select pgque.{call}".encode(), [queue, name])
    own = column(app, "select consumer_name from pgque.get_consumer_info(%s)", queue)
    assert own == ["mine"]
    for conn, batch in zip((other, autoconn), theirs, strict=True):
        assert ack(conn, batch) == 1
    assert payloads(receive(app, queue, "mine")) == ["x"]


def test_members_of_a_role_share_its_grants_and_its_consumers(autoconn, queue, new_role, log_in):
    team = new_role(name="team")
    grant(autoconn, team, queue, "produce", "consume")
    one, two = log_in(new_role(team)), log_in(new_role(team))
    subscribe(one, queue, "ours")
    send(two, queue)
    tick(autoconn, queue)
    assert ack(one, receive(two, queue, "ours")) == 1
    autoconn.execute(sql.SQL("revoke {} from {}").format(*map(sql.Identifier, (team, user(two)))))
    with refused("42501", "permission denied"):
        receive(two, queue, "ours")
    assert receive(one, queue, "ours") == []


def test_a_role_without_inherit_has_its_grants_after_set_role(autoconn, queue, new_role, log_in):
    team = new_role(name="team")
    grant(autoconn, team, queue, "produce")
    member = new_role()
    autoconn.execute(sql.SQL("alter role {} noinherit").format(sql.Identifier(member)))
    autoconn.execute(sql.SQL("grant {} to {}").format(*map(sql.Identifier, (team, member))))
    conn = log_in(member)
    with refused("42501", "permission denied for schema pgque"):
        send(conn, queue)
    conn.execute(sql.SQL("set role {}").format(sql.Identifier(team)))
    assert send(conn, queue) > 0
    conn.execute("reset role")
    with refused("42501", "permission denied for schema pgque"):
        send(conn, queue)


def test_a_trigger_captures_events_with_a_grant(app, autoconn, queue, consumer):
    autoconn.execute("create table public.item (id int primary key)")
    autoconn.execute(
        sql.SQL(
            "create trigger t after insert on public.item for each row "
            "execute function pgque.jsontriga({}); grant insert on public.item to {}"
        ).format(queue, sql.Identifier(user(app)))
    )
    app.execute("insert into public.item values (7)")
    assert payloads(drain(autoconn, queue, consumer)) == ['{"id":7}']


def test_a_client_and_a_consumer_work_unchanged(app, autoconn, dsn, queue):
    own = psycopg.conninfo.make_conninfo(dsn, user=user(app))
    configure(autoconn, queue, max_retries=1)
    got: list[str | None] = []
    failing = uuid.uuid4().hex
    with pgque.connect(own, autocommit=True) as client:
        assert client.subscribe(queue, "worker") == 1
        consumer = Consumer(own, queue=queue, name="worker", retry_after=0)

        @consumer.on("*")
        def handle(message: Message, inside: PgqueClient) -> None:
            if message.payload == failing:
                raise ValueError("cannot")
            if message.type == "first":
                inside.send(queue, "answer", type="second")
            got.append(message.payload)

        with running(consumer):
            eventually(lambda: consumer._ticker is not None and consumer._ticker.listening)
            client.send(queue, "one", type="first", key="k", headers={"a": 1})
            client.send_batch(queue, "batch", ["two", failing, "three"])

            def arrived() -> bool:
                value(autoconn, "select pgque.maint_retry_events()")
                value(autoconn, "select pgque.ticker()")
                dead = value(autoconn, "select count(*) from pgque.dead_letter")
                return len(got) == 4 and dead == 1

            eventually(arrived, "all messages")
        assert sorted(filter(None, got)) == ["answer", "one", "three", "two"]
        assert [info.queue_name for info in client.queue_info()] == [queue]
        assert [info.consumer_name for info in client.consumer_info()] == ["worker"]
        with pytest.raises(pgque.PgqueQueueNotFound):
            client.send("other", "x")
        with pytest.raises(pgque.PgquePermissionDenied):
            client.create_queue("other")
        with pytest.raises(pgque.PgquePermissionDenied):
            client.ticker(queue)
