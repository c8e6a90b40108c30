"""The client connects, or reports why it cannot (pgque/client.py)."""

import warnings
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

import pgque
from pgque import PgqueClient
from pgque.client import check_connection
from tests.client.conftest import message
from tests.fix_pooler import directly
from tests.running import backend_of, free_port


def send_and_fail(client: PgqueClient, queue: str) -> None:
    client.send(queue, "undone")
    raise KeyError


# Connecting


def test_connect_owns_its_connection(dsn: str) -> None:
    with pgque.connect(dsn) as client:
        assert client.conn.autocommit is False
        assert client.conn.info.transaction_status == TransactionStatus.IDLE
    assert client.conn.closed


def test_connect_accepts_autocommit(dsn: str, queue: str) -> None:
    with pgque.connect(dsn, autocommit=True) as client:
        client.send(queue, "x")
        assert client.conn.info.transaction_status == TransactionStatus.IDLE


def test_a_borrowed_connection_stays_open(conn: psycopg.Connection[Any]) -> None:
    with PgqueClient(conn) as client:
        assert client.conn is conn
    client.close()
    assert not conn.closed


def test_leaving_the_block_warns_of_a_rollback(dsn: str, queue: str) -> None:
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


def test_only_a_psycopg_connection_can_be_borrowed() -> None:
    with pytest.raises(pgque.PgqueInvalidArgument, match=r"psycopg\.Connection"):
        PgqueClient("dbname=x")  # type: ignore[arg-type]


def test_an_unreachable_server_raises() -> None:
    with pytest.raises(pgque.PgqueConnectionError, match="server") as caught:
        pgque.connect(f"host=127.0.0.1 port={free_port()} dbname=x")
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_an_unknown_database_raises(dsn: str) -> None:
    with pytest.raises(pgque.PgqueConnectionError, match="no_such_database"):
        pgque.connect(make_conninfo(dsn, dbname="no_such_database"))


def test_a_malformed_dsn_raises() -> None:
    with pytest.raises(pgque.PgqueInvalidArgument):
        pgque.connect("nonsense")


def test_a_server_that_is_too_old_raises() -> None:
    conn = Mock(spec=psycopg.Connection, info=SimpleNamespace(server_version=130012))
    with pytest.raises(pgque.PgqueServerTooOld, match="PostgreSQL 13"):
        check_connection(conn)


def test_a_missing_schema_raises(empty_dsn: str) -> None:
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


def test_a_missing_function_raises(conn: psycopg.Connection[Any], client: PgqueClient) -> None:
    conn.execute("drop function pgque.ack(bigint) cascade")
    with pytest.raises(pgque.PgqueSchemaMissing, match="pgque install"):
        client.ack(1)


def test_a_newer_schema_raises(autoconn: psycopg.Connection[Any], dsn: str) -> None:
    autoconn.execute("update pgque.config set schema_version = 999")
    with pytest.raises(pgque.PgqueSchemaNewer, match="upgrade"):
        pgque.connect(dsn)


@directly
def test_a_read_only_session_can_read(dsn: str, queue: str, consumer: str) -> None:
    read_only = make_conninfo(dsn, options="-c default_transaction_read_only=on")
    with pgque.connect(read_only) as client:
        assert client.receive(queue, consumer) == []
        assert [info.queue_name for info in client.queue_info()] == [queue]
        with pytest.raises(pgque.PgqueReadOnly, match="primary"):
            client.send(queue, "x")


@directly
def test_errors_name_the_role_that_a_call_needs(
    dsn: str, autoconn: psycopg.Connection[Any], queue: str, consumer: str
) -> None:
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


def test_a_lost_connection_raises(client: PgqueClient, autoconn: psycopg.Connection[Any]) -> None:
    client.queue_info()
    autoconn.execute("select pg_terminate_backend(%s, 10000)", [backend_of(client.conn)])
    for _ in range(2):
        with pytest.raises(pgque.PgqueConnectionError):
            client.queue_info()
