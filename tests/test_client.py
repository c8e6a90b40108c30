"""The client's way of a message: connect, send, receive, ack, nack, cooperative groups."""

import socket
import threading
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

import pgque
from pgque import Event, Message, PgqueClient
from pgque.client import check_connection
from tests.fix_pooler import directly
from tests.running import backend_of

Connect = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def client(conn: psycopg.Connection[Any]) -> PgqueClient:
    return PgqueClient(conn)


@pytest.fixture
def tick(autoconn: psycopg.Connection[Any], queue: str) -> Callable[[], None]:
    """Tick the test's queue, in a transaction of its own."""

    def tick() -> None:
        other = PgqueClient(autoconn)
        other.force_next_tick(queue)
        assert other.ticker(queue) is not None

    return tick


def send_and_fail(client: PgqueClient, queue: str) -> None:
    client.send(queue, "undone")
    raise KeyError


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# Connecting


def test_connect_owns_its_connection(dsn: str) -> None:
    with pgque.connect(dsn) as client:
        assert client.conn.autocommit is False
        assert client.conn.info.transaction_status == TransactionStatus.IDLE
    assert client.conn.closed


def test_connect_autocommit(dsn: str, queue: str) -> None:
    with pgque.connect(dsn, autocommit=True) as client:
        client.send(queue, "x")
        assert client.conn.info.transaction_status == TransactionStatus.IDLE


def test_a_borrowed_connection_stays_open(conn: psycopg.Connection[Any]) -> None:
    with PgqueClient(conn) as client:
        assert client.conn is conn
    client.close()
    assert not conn.closed


def test_leaving_the_block_warns_of_what_is_undone(dsn: str, queue: str) -> None:
    with pytest.warns(RuntimeWarning, match="commit"), pgque.connect(dsn) as client:
        client.send(queue, "lost")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pgque.connect(dsn) as client:
            client.queue_info()
        with pgque.connect(dsn) as client:
            client.send(queue, "kept")
            client.conn.commit()
        with pytest.raises(KeyError), pgque.connect(dsn) as client:
            send_and_fail(client, queue)


def test_only_a_psycopg_connection_is_borrowed() -> None:
    with pytest.raises(pgque.PgqueInvalidArgument, match=r"psycopg\.Connection"):
        PgqueClient("dbname=x")  # type: ignore[arg-type]


def test_server_down() -> None:
    with pytest.raises(pgque.PgqueConnectionError, match="server") as caught:
        pgque.connect(f"host=127.0.0.1 port={closed_port()} dbname=x")
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_no_such_database(dsn: str) -> None:
    with pytest.raises(pgque.PgqueConnectionError, match="no_such_database"):
        pgque.connect(make_conninfo(dsn, dbname="no_such_database"))


def test_malformed_dsn() -> None:
    with pytest.raises(pgque.PgqueInvalidArgument):
        pgque.connect("nonsense")


def test_server_too_old() -> None:
    conn = Mock(spec=psycopg.Connection, info=SimpleNamespace(server_version=130012))
    with pytest.raises(pgque.PgqueServerTooOld, match="PostgreSQL 13"):
        check_connection(conn)


def test_no_schema(empty_dsn: str) -> None:
    with pytest.raises(pgque.PgqueSchemaMissing, match="pgque install"):
        pgque.connect(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        client = PgqueClient(conn)
        for call in (
            lambda: client.send("q", "x"),
            lambda: client.receive("q", "c"),
            lambda: client.nack(1, message()),
            lambda: client.dead_letters("q"),
        ):
            with pytest.raises(pgque.PgqueSchemaMissing, match="pgque install"):
                call()
            conn.rollback()


def test_a_function_is_missing(conn: psycopg.Connection[Any], client: PgqueClient) -> None:
    conn.execute("drop function pgque.ack(bigint) cascade")
    with pytest.raises(pgque.PgqueSchemaMissing, match="pgque install"):
        client.ack(1)


def test_schema_newer(autoconn: psycopg.Connection[Any], dsn: str) -> None:
    autoconn.execute("update pgque.config set schema_version = 999")
    with pytest.raises(pgque.PgqueSchemaNewer, match="upgrade"):
        pgque.connect(dsn)


@directly
def test_read_only_reads(dsn: str, queue: str, consumer: str) -> None:
    read_only = make_conninfo(dsn, options="-c default_transaction_read_only=on")
    with pgque.connect(read_only) as client:
        assert client.receive(queue, consumer) == []
        assert [info.queue_name for info in client.queue_info()] == [queue]
        with pytest.raises(pgque.PgqueReadOnly, match="primary"):
            client.send(queue, "x")


@directly
def test_roles(dsn: str, autoconn: psycopg.Connection[Any], queue: str, consumer: str) -> None:
    def as_role(role: str) -> PgqueClient:
        return pgque.connect(make_conninfo(dsn, options=f"-c role={role}"), autocommit=True)

    with as_role("pgque_writer") as writer:
        assert writer.send(queue, "x") > 0
        with pytest.raises(pgque.PgquePermissionDenied, match="pgque_reader to consume"):
            writer.receive(queue, consumer)
    with as_role("pgque_reader") as reader:
        assert reader.receive(queue, consumer) == []
        assert reader.dead_letters(queue) == []
        with pytest.raises(pgque.PgquePermissionDenied, match="pgque_writer to send"):
            reader.send(queue, "x")
    with as_role("pgque_admin") as admin:
        admin.send(queue, "x")
        assert admin.ticker(queue)
        assert [m.payload for m in admin.receive(queue, consumer)] == ["x", "x"]
    with pytest.raises(pgque.PgquePermissionDenied):
        as_role("pg_monitor")


def test_a_lost_connection(client: PgqueClient, autoconn: psycopg.Connection[Any]) -> None:
    client.queue_info()
    autoconn.execute("select pg_terminate_backend(%s)", [backend_of(client.conn)])
    for _ in range(2):
        with pytest.raises(pgque.PgqueConnectionError):
            client.queue_info()


# Sending


def test_send_and_receive(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    sent = [
        client.send(queue, "as it is"),
        client.send(queue, {"a": "é"}, type="created"),
        client.send(queue),
        client.send(queue, Event([1], "listed")),
        client.send(queue, "k", key="42", headers={"trace": "t"}),
    ]
    assert client.receive(queue, consumer) == []
    client.conn.commit()
    tick()
    messages = client.receive(queue, consumer)
    assert [m.msg_id for m in messages] == sent
    assert [(m.type, m.payload) for m in messages] == [
        ("default", "as it is"),
        ("created", '{"a":"é"}'),
        ("default", "null"),
        ("listed", "[1]"),
        ("default", "k"),
    ]
    assert [m.retry_count for m in messages] == [0] * 5
    assert len({m.batch_id for m in messages}) == 1
    assert messages[1].json() == {"a": "é"}
    assert messages[4].key == "42"
    assert messages[4].headers == {"trace": "t"}
    assert messages[0].key is None
    age = datetime.now(timezone.utc) - messages[0].created_at
    assert abs(age) < timedelta(minutes=5)
    assert client.ack(messages[0].batch_id) == 1
    client.conn.commit()
    assert client.receive(queue, consumer) == []


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_created_at_is_the_time_of_the_event_in_utc(
    autoconn: psycopg.Connection[Any],
    queue: str,
    consumer: str,
    tick: Callable[[], None],
    zone: str,
) -> None:
    client = PgqueClient(autoconn)
    client.conn.execute("select set_config('TimeZone', %s, false)", [zone])
    client.send(queue, "x")
    tick()
    (received,) = client.receive(queue, consumer)
    row = client.conn.execute(
        "select ev_time from pgque.get_batch_events(%s)", [received.batch_id]
    ).fetchone()
    assert row == (received.created_at,)
    assert received.created_at.tzinfo is timezone.utc


def test_send_is_part_of_the_transaction(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send(queue, "undone")
    client.conn.rollback()
    with client.conn.transaction(force_rollback=True):
        client.send(queue, "undone too")
    client.send(queue, "kept")
    client.conn.commit()
    tick()
    assert [m.payload for m in client.receive(queue, consumer)] == ["kept"]


def test_send_batch(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    payloads = ["a", None, {"b": 'c"\\'}, "", "NULL", "{1,2}", "é€😀"]
    ids = client.send_batch(queue, "many", iter(payloads))
    client.conn.commit()
    tick()
    messages = client.receive(queue, consumer)
    assert [m.msg_id for m in messages] == ids
    assert [m.payload for m in messages] == [
        "a", "null", '{"b":"c\\"\\\\"}', "", "NULL", "{1,2}", "é€😀",
    ]  # fmt: skip
    assert {m.type for m in messages} == {"many"}
    assert client.send_batch("no such queue", "many", []) == []


def test_an_event_and_a_type_that_disagree(client: PgqueClient, queue: str) -> None:
    assert client.send(queue, Event("x", "a"), type="a")
    with pytest.raises(pgque.PgqueInvalidArgument, match="'a'"):
        client.send(queue, Event("x", "a"), type="b")


@pytest.mark.parametrize("payload", ["\0", "\ud800", float("nan"), object()])
def test_a_bad_payload_costs_nothing(client: PgqueClient, queue: str, payload: Any) -> None:
    for send in (
        lambda: client.send(queue, payload),
        lambda: client.send(queue, Event(payload)),
        lambda: client.send_batch(queue, "t", ["good", payload]),
        lambda: client.send(queue, "x", headers={"h": payload}),
    ):
        with pytest.raises(pgque.PgquePayloadError):
            send()
        assert client.conn.info.transaction_status == TransactionStatus.IDLE
    assert client.send(queue, "x")


def test_names_that_cannot_be_sent(client: PgqueClient) -> None:
    for name in ("a\0b", "\ud800"):
        with pytest.raises(pgque.PgqueInvalidArgument):
            client.send(name, "x")


def test_an_encoding_that_has_no_such_character(connect: Connect, queue: str) -> None:
    client = PgqueClient(connect(client_encoding="latin1"))
    assert client.send(queue, "é")
    with pytest.raises(pgque.PgqueInvalidArgument, match="utf8"):
        client.send(queue, "€")
    assert client.send(queue, "é")


def test_an_encoding_that_changes_between_two_sends(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    for encoding in ("utf8", "latin1", "utf8"):
        client.conn.execute("select set_config('client_encoding', %s, false)", [encoding])
        client.send(queue, "é")
    with pytest.raises(pgque.PgqueQueueNotFound), client.conn.transaction():
        client.send("nowhere", "é")
    client.send(queue, "é")
    with client.conn.pipeline():
        client.send(queue, "é")
    client.conn.commit()
    tick()
    assert [m.payload for m in client.receive(queue, consumer)] == ["é"] * 5


def test_threads_may_share_a_client(dsn: str, queue: str) -> None:
    with pgque.connect(dsn, autocommit=True) as client:
        sent: list[int] = []
        threads = [
            threading.Thread(target=lambda: sent.extend(client.send(queue, "x") for _ in range(50)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(sent)) == 200


@pytest.mark.parametrize(
    "options",
    [
        {"row_factory": dict_row},
        {"cursor_factory": psycopg.ClientCursor},
        {"cursor_factory": psycopg.RawCursor},
        {"prepare_threshold": None},
        {"prepare_threshold": 0},
    ],
)
def test_any_kind_of_connection(
    connect: Connect,
    queue: str,
    consumer: str,
    tick: Callable[[], None],
    options: dict[str, Any],
) -> None:
    client = PgqueClient(connect(**options))
    client.send(queue, "a")
    client.send_batch(queue, "default", ["b"])
    client.conn.commit()
    tick()
    messages = client.receive(queue, consumer)
    assert [m.payload for m in messages] == ["a", "b"]
    client.nack(messages[0].batch_id, messages[0])
    assert client.ack(messages[0].batch_id) == 1


def test_unknown_queue(client: PgqueClient) -> None:
    for call in (
        lambda: client.send("nowhere", "x"),
        lambda: client.send_batch("nowhere", "t", ["x"]),
        lambda: client.subscribe("nowhere", "c"),
        lambda: client.receive("nowhere", "c"),
        lambda: client.receive_coop("nowhere", "c", "s"),
    ):
        with pytest.raises(pgque.PgqueQueueNotFound, match="queue not found: nowhere") as caught:
            call()
        assert caught.value.sqlstate == "PQ001"
        assert isinstance(caught.value.__cause__, psycopg.Error)
        client.conn.rollback()


def test_after_an_error(client: PgqueClient, queue: str) -> None:
    client.send(queue, "before")
    with pytest.raises(pgque.PgqueQueueNotFound), client.conn.transaction():
        client.send("nowhere", "x")
    client.send(queue, "the savepoint kept the transaction")
    with pytest.raises(pgque.PgqueQueueNotFound):
        client.send("nowhere", "x")
    with pytest.raises(pgque.PgqueTransactionAborted, match="Roll back"):
        client.send(queue, "x")
    client.conn.rollback()
    assert client.send(queue, "usable again")


def test_insert_disallowed(client: PgqueClient, queue: str) -> None:
    client.conn.execute("update pgque.queue set queue_disable_insert = true")
    with pytest.raises(pgque.PgqueInsertDisallowed):
        client.send(queue, "x")


# Consuming


def message(msg_id: int = 1, batch_id: int = 1) -> Message:
    return Message(msg_id, batch_id, "t", "x", 0, datetime.now(timezone.utc))


def test_subscribe_and_unsubscribe(client: PgqueClient, queue: str) -> None:
    assert client.subscribe(queue, "c") == 1
    assert client.subscribe(queue, "c") == 0
    assert client.unsubscribe(queue, "c") == 1
    assert client.unsubscribe(queue, "c") == 0
    with pytest.raises(pgque.PgqueConsumerNotFound, match="Not subscriber to queue"):
        client.receive(queue, "c")


@pytest.mark.parametrize("max_messages", [0, -1, 2**31])
def test_max_messages(client: PgqueClient, queue: str, consumer: str, max_messages: int) -> None:
    with pytest.raises(pgque.PgqueInvalidArgument):
        client.receive(queue, consumer, max_messages)


def test_part_of_a_batch(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send_batch(queue, "t", ["a", "b", "c"])
    client.conn.commit()
    tick()
    seen = []
    while messages := client.receive(queue, consumer, 2):
        seen.append([m.payload for m in messages])
        assert client.ack(messages[0].batch_id) == 1
        client.conn.commit()
    assert seen == [["a", "b"], ["c"]]


def test_merged_takes_several_windows(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    for payload in ("a", "b"):
        client.send(queue, payload)
        client.conn.commit()
        tick()
    messages = client.receive(queue, consumer, merged=True)
    assert [m.payload for m in messages] == ["a", "b"]
    assert len({m.batch_id for m in messages}) == 1


def test_merged_says_that_another_is_at_work(
    client: PgqueClient,
    connect: Connect,
    queue: str,
    consumer: str,
    tick: Callable[[], None],
) -> None:
    client.send(queue, "x")
    client.conn.commit()
    tick()
    assert client.receive(queue, consumer)
    with pytest.raises(pgque.PgqueBusy):
        PgqueClient(connect()).receive(queue, consumer, merged=True)


def test_ack_of_what_is_not_open(client: PgqueClient) -> None:
    notices: list[str | None] = []
    client.conn.add_notice_handler(lambda notice: notices.append(notice.severity))
    assert client.ack(12345) == 0
    assert notices == ["WARNING"]


@pytest.mark.parametrize(
    "retry_after", [0, 0.001, timedelta(milliseconds=1), timedelta(0)], ids=str
)
def test_nack_brings_the_message_back(
    client: PgqueClient,
    autoconn: psycopg.Connection[Any],
    queue: str,
    consumer: str,
    tick: Callable[[], None],
    retry_after: float,
) -> None:
    client.send_batch(queue, "t", ["good", "bad"])
    client.conn.commit()
    tick()
    good, bad = client.receive(queue, consumer)
    client.nack(bad.batch_id, bad, retry_after=retry_after)
    client.ack(good.batch_id)
    client.conn.commit()
    autoconn.execute("update pgque.retry_queue set ev_retry_after = now() - interval '1 second'")
    autoconn.execute("select pgque.maint_retry_events()")
    tick()
    (again,) = client.receive(queue, consumer)
    assert again.payload == "bad"
    assert again.msg_id == bad.msg_id
    assert again.created_at == bad.created_at
    assert again.retry_count == 1


def test_nack_waits_as_long_as_it_was_told(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send_batch(queue, "t", ["a", "b", "c"])
    client.conn.commit()
    tick()
    a, b, c = client.receive(queue, consumer)
    client.nack(a.batch_id, a)
    client.nack(b.batch_id, b, 1.5)
    client.nack(c.batch_id, c, timedelta(days=2))
    waits = client.conn.execute(
        "select extract(epoch from ev_retry_after - clock_timestamp())::float"
        " from pgque.retry_queue order by ev_id"
    ).fetchall()
    for (wait,), wanted in zip(waits, [60, 1.5, 2 * 86400], strict=True):
        assert wanted - 5 < wait <= wanted


def test_nack_names_what_is_not_there(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive(queue, consumer)
    client.conn.commit()
    with pytest.raises(pgque.PgqueBatchNotFound, match="batch not found: 12345"):
        client.nack(12345, received)
    client.conn.rollback()
    with pytest.raises(pgque.PgqueMessageNotFound, match="msg_id 999 not found in batch"):
        client.nack(received.batch_id, message(999))


def test_nack_many(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.set_queue_config(queue, "max_retries", 0)
    client.send_batch(queue, "t", ["a", "b", "c", "d"])
    client.conn.commit()
    tick()
    a, _, c, d = client.receive(queue, consumer)
    assert client.nack_many(a.batch_id, [a, c], 0, ["NUL \0, surrogate \ud800", None]) == 2
    assert client.nack_many(a.batch_id, (d,), timedelta(0)) == 1
    assert client.nack_many(a.batch_id, []) == 0
    assert client.ack(a.batch_id) == 1
    dead = {letter.ev_id: letter.dl_reason for letter in client.dead_letters(queue)}
    assert dead.keys() == {a.msg_id, c.msg_id, d.msg_id}
    assert dead[a.msg_id] == "NUL \\x00, surrogate \\ud800"


def test_nack_many_is_all_or_none(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.send_batch(queue, "t", ["a", "b"])
    client.conn.commit()
    tick()
    a, b = client.receive(queue, consumer)
    for batch_id, messages, reasons, error in (
        (a.batch_id, [a, message(999)], None, pgque.PgqueMessageNotFound),
        (12345, [a], None, pgque.PgqueBatchNotFound),
        (a.batch_id, [a, b], ["only one"], pgque.PgqueInvalidArgument),
    ):
        with pytest.raises(error), client.conn.transaction():
            client.nack_many(batch_id, messages, 0, reasons)
    with pytest.raises(pgque.PgqueInvalidArgument, match="retry_after must be"):
        client.nack_many(a.batch_id, [a], float("nan"))
    with pytest.raises(pgque.PgqueInvalidArgument, match="reason must be a str"):
        client.nack(a.batch_id, a, reason=ValueError("boom"))
    assert client.conn.execute("select count(*) from pgque.retry_queue").fetchone() == (0,)


@pytest.mark.parametrize("retry_after", [float("nan"), float("inf"), 1e30, "soon", None])
def test_nack_refuses_what_is_no_time(client: PgqueClient, retry_after: Any) -> None:
    with pytest.raises(pgque.PgqueInvalidArgument, match="retry_after must be"):
        client.nack(1, message(), retry_after)
    assert client.conn.info.transaction_status == TransactionStatus.IDLE


def test_a_reason_may_quote_anything(
    client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]
) -> None:
    client.set_queue_config(queue, "max_retries", 0)
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive(queue, consumer)
    client.nack(received.batch_id, received, reason="NUL \0, surrogate \ud800, é")
    (dead,) = client.dead_letters(queue)
    assert dead.dl_reason == "NUL \\x00, surrogate \\ud800, é"


def test_seek(client: PgqueClient, queue: str, consumer: str, tick: Callable[[], None]) -> None:
    start = client.queue_info(queue)[0].last_tick_id
    assert start is not None
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive(queue, consumer)
    with pytest.raises(pgque.PgqueBatchOpen), client.conn.transaction():
        client.seek(queue, consumer, start)
    client.ack(received.batch_id)
    assert client.receive(queue, consumer) == []
    assert client.seek(queue, consumer, start) == start
    (again,) = client.receive(queue, consumer)
    assert again.msg_id == received.msg_id
    client.ack(again.batch_id)
    newest = client.seek(queue, consumer, datetime.now(timezone.utc) + timedelta(hours=1))
    assert newest == client.queue_info(queue)[0].last_tick_id
    for nowhere in (newest + 1000, datetime(2001, 1, 1, tzinfo=timezone.utc)):
        with pytest.raises(pgque.PgqueTickNotFound), client.conn.transaction():
            client.seek(queue, consumer, nowhere)
    with pytest.raises(pgque.PgqueInvalidArgument, match="time zone"):
        client.seek(queue, consumer, datetime(2026, 1, 1))


def test_a_snapshot_that_is_too_old(
    client: PgqueClient,
    connect: Connect,
    queue: str,
    consumer: str,
    tick: Callable[[], None],
) -> None:
    old = PgqueClient(connect())
    old.conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    old.queue_info()
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive(queue, consumer)
    client.ack(received.batch_id)
    client.conn.commit()
    with pytest.raises(pgque.PgqueRetryable, match="again"):
        old.receive(queue, consumer)


# Cooperative consumers


def test_cooperative_members(client: PgqueClient, queue: str, tick: Callable[[], None]) -> None:
    assert client.subscribe_subconsumer(queue, "group", "a") == 1
    assert client.subscribe_subconsumer(queue, "group", "a") == 0
    client.send(queue, "x")
    client.conn.commit()
    tick()
    (received,) = client.receive_coop(queue, "group", "a", max_messages=10)
    client.conn.commit()
    assert client.receive_coop(queue, "group", "b", dead_interval=3600) == []
    assert client.touch_subconsumer(queue, "group", "a") >= 1
    client.conn.commit()
    (taken,) = client.receive_coop(queue, "group", "b", dead_interval=timedelta(0), merged=True)
    assert taken.msg_id == received.msg_id
    assert taken.batch_id != received.batch_id
    assert client.ack(received.batch_id) == 0
    with pytest.raises(pgque.PgqueBatchOpen), client.conn.transaction():
        client.unsubscribe_subconsumer(queue, "group", "b")
    assert client.unsubscribe_subconsumer(queue, "group", "b", batch_handling=1) == 1
    assert client.unsubscribe_subconsumer(queue, "group", "a") == 1


def test_cooperative_names(client: PgqueClient, queue: str, consumer: str) -> None:
    with pytest.raises(pgque.PgqueNormalConsumer), client.conn.transaction():
        client.subscribe_subconsumer(queue, consumer, "a")
    assert client.subscribe_subconsumer(queue, consumer, "a", convert_normal=True) == 1
    with (
        pytest.raises(pgque.PgqueCooperativeConsumer, match="receive_coop"),
        client.conn.transaction(),
    ):
        client.receive(queue, consumer)
    with pytest.raises(pgque.PgqueInvalidArgument, match="dot"), client.conn.transaction():
        client.subscribe_subconsumer(queue, "group", "a.b")
    with pytest.raises(pgque.PgqueInvalidArgument, match="batch_handling"):
        client.unsubscribe_subconsumer(queue, consumer, "a", batch_handling=7)
