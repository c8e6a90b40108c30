"""The pool: one block is one transaction."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import pgque
from pgque import ClientPool, PgqueClient
from tests.fix_pooler import directly
from tests.running import PATIENCE, backend_of


@pytest.fixture
def pool(dsn: str) -> Iterator[ClientPool]:
    with ClientPool(dsn, min_size=1, max_size=2, timeout=PATIENCE) as pool:
        yield pool


def send_and_fail(client: PgqueClient, queue: str) -> None:
    client.send(queue, "undone")
    raise KeyError


def send_and_pass_over_an_error(client: PgqueClient, queue: str, commit: bool = False) -> None:
    client.send(queue, "lost")
    with contextlib.suppress(pgque.PgqueQueueNotFound):
        client.send("nowhere", "x")
    if commit:
        with contextlib.suppress(psycopg.errors.InFailedSqlTransaction):
            client.conn.commit()


def send_on_a_dead_connection(client: PgqueClient, killer: psycopg.Connection[Any]) -> None:
    killer.execute("select pg_terminate_backend(%s, 10000)", [backend_of(client.conn)])
    client.send("anywhere", "x")


def pending(conn: psycopg.Connection[Any], queue: str, consumer: str) -> list[str | None]:
    """The payloads that a consumer receives after a tick."""
    client = PgqueClient(conn)
    client.force_next_tick(queue)
    client.ticker(queue)
    return [message.payload for message in client.receive(queue, consumer)]


def test_a_block_commits_at_its_end(
    pool: ClientPool, autoconn: psycopg.Connection[Any], queue: str, consumer: str
) -> None:
    with pool.client() as client:
        client.send(queue, "a")
        client.send(queue, "b")
    assert pending(autoconn, queue, consumer) == ["a", "b"]


def test_an_error_rolls_the_block_back(
    pool: ClientPool, autoconn: psycopg.Connection[Any], queue: str, consumer: str
) -> None:
    with pytest.raises(KeyError), pool.client() as client:
        send_and_fail(client, queue)
    with pytest.raises(pgque.PgqueQueueNotFound), pool.client() as client:
        client.send_batch("nowhere", "t", [client.send(queue, "undone")])
    with pool.client() as client:
        client.send(queue, "kept")
    assert pending(autoconn, queue, consumer) == ["kept"]


def test_errors_of_the_application_are_not_wrapped(pool: ClientPool) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero), pool.client() as client:
        client.conn.execute("select 1/0")


def test_an_error_at_commit_raises_a_pgque_error(
    pool: ClientPool, autoconn: psycopg.Connection[Any]
) -> None:
    autoconn.execute(
        "create table once (id int primary key deferrable initially deferred);"
        "insert into once values (1)"
    )
    with pytest.raises(pgque.PgqueError, match="once_pkey") as caught, pool.client() as client:
        client.conn.execute("insert into once values (1)")
    assert isinstance(caught.value.__cause__, psycopg.errors.UniqueViolation)
    with pool.client() as client:
        client.queue_info()


def test_a_swallowed_database_error_is_not_mistaken_for_a_commit(
    pool: ClientPool, autoconn: psycopg.Connection[Any], queue: str, consumer: str
) -> None:
    aborted = pytest.raises(pgque.PgqueTransactionAborted, match="undone")
    with aborted as caught, pool.client() as client:
        send_and_pass_over_an_error(client, queue)
    assert isinstance(caught.value.__cause__, psycopg.errors.InFailedSqlTransaction)
    with pool.client() as client:
        client.send(queue, "lost as well")
        with contextlib.suppress(psycopg.errors.DivisionByZero), client.conn.transaction():
            client.conn.execute("select 1/0")
        client.send(queue, "kept")
    assert pending(autoconn, queue, consumer) == ["lost as well", "kept"]


def test_commit_raises_on_pgques_connections_if_nothing_can_be_committed(
    dsn: str, pool: ClientPool, autoconn: psycopg.Connection[Any], queue: str, consumer: str
) -> None:
    aborted = pytest.raises(psycopg.errors.InFailedSqlTransaction)
    with pgque.connect(dsn) as client:
        send_and_pass_over_an_error(client, queue)
        with aborted:
            client.conn.commit()
        client.conn.rollback()
        client.send(queue, "kept")
        client.conn.commit()
    with pgque.connect(dsn, autocommit=True) as client:
        with aborted, client.conn.transaction():
            send_and_pass_over_an_error(client, queue)
        with client.conn.transaction(force_rollback=True):
            send_and_pass_over_an_error(client, queue)
        with client.conn.transaction():
            with aborted, client.conn.transaction():
                send_and_pass_over_an_error(client, queue)
            client.send(queue, "kept")
    with pytest.raises(pgque.PgqueTransactionAborted), pool.client() as client:
        send_and_pass_over_an_error(client, queue, commit=True)
    assert pending(autoconn, queue, consumer) == ["kept", "kept"]


def test_closing_a_borrowed_client_does_nothing(pool: ClientPool) -> None:
    with pool.client() as client:
        client.close()
        client.queue_info()


def test_threads_share_the_connections(
    pool: ClientPool, autoconn: psycopg.Connection[Any], queue: str, consumer: str
) -> None:
    def send(number: int) -> None:
        with pool.client() as client:
            client.send(queue, str(number))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = pending(autoconn, queue, consumer)
    assert sorted(int(payload or "") for payload in sent) == list(range(10))
    assert pool.pool.get_stats()["pool_size"] <= 2


def test_an_exhausted_pool_raises(dsn: str) -> None:
    with ClientPool(dsn, max_size=1) as pool, pool.client():
        no_room = pytest.raises(pgque.PgqueConnectionError, match="max_size")
        with no_room as caught, pool.client(timeout=0.01):
            pass
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_a_broken_connection_is_replaced(
    pool: ClientPool,
    autoconn: psycopg.Connection[Any],
    queue: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "psycopg.pool")
    with pytest.raises(pgque.PgqueConnectionError), pool.client() as client:
        send_on_a_dead_connection(client, autoconn)
    with pool.client() as client:
        client.send(queue, "y")


@directly
def test_check_replaces_a_dead_connection_before_lending_it(
    dsn: str, autoconn: psycopg.Connection[Any], queue: str
) -> None:
    with ClientPool(dsn, max_size=1, check=True) as pool:
        with pool.client() as client:
            pid = backend_of(client.conn)
        autoconn.execute("select pg_terminate_backend(%s, 10000)", [pid])
        with pool.client() as client:
            client.send(queue, "x")


def test_opening_reports_errors_at_once(empty_dsn: str) -> None:
    with pytest.raises(pgque.PgqueSchemaMissing):
        ClientPool(empty_dsn)
    with pytest.raises(pgque.PgqueConnectionError):
        ClientPool("host=127.0.0.1 port=1 dbname=x")
    with pytest.raises(pgque.PgqueInvalidArgument):
        ClientPool("nonsense")


def test_a_pool_can_be_opened_later_and_closed(dsn: str, queue: str) -> None:
    pool = ClientPool(dsn, open=False)
    with pytest.raises(pgque.PgqueConnectionError), pool.client():
        pass
    pool.open()
    pool.open()
    with pool.client() as client:
        client.send(queue, "x")
    pool.close()
    with pytest.raises(pgque.PgqueConnectionError), pool.client():
        pass
    with pytest.raises(pgque.PgqueConnectionError):
        pool.open()


def test_behind_a_pooler_no_statements_are_prepared(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgque.wire.calls.is_pooled", lambda conn: True)
    with ClientPool(dsn, max_size=1) as pool:
        for _ in range(10):
            with pool.client() as client:
                client.queue_info()
        with pool.client() as client:
            prepared = client.conn.execute("select count(*) from pg_prepared_statements")
            assert prepared.fetchone() == (0,)
