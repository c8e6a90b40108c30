"""Prepared statements that a session has lost (pgque/wire/calls.py)."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import pgque
from pgque import PgqueClient
from tests.fix_pooler import directly

pytestmark = directly

CALLS: dict[str, Callable[[PgqueClient, str, str], object]] = {
    "send": lambda client, queue, consumer: client.send(queue, "x"),
    "receive": lambda client, queue, consumer: client.receive(queue, consumer),
    "rows": lambda client, queue, consumer: client.queue_info(queue),
}


def lose_by_discard(client: PgqueClient) -> None:
    """Reset the session behind psycopg's back, as a connection pool does."""
    client.conn.pgconn.exec_(b"discard all")


def lose_by_deallocate(client: PgqueClient) -> None:
    client.conn.execute("do $$ begin execute 'deallocate all'; end $$", prepare=False)


def prepare(client: PgqueClient, queue: str, consumer: str) -> None:
    for _ in range(7):
        for call in CALLS.values():
            call(client, queue, consumer)
    client.conn.commit()
    found = client.conn.execute(
        "select count(*) from pg_prepared_statements where statement ~ 'pgque'", prepare=False
    ).fetchone()
    assert found is not None
    assert found[0] >= len(CALLS)
    client.conn.commit()


@pytest.fixture(params=[True, False], ids=["autocommit", "transactions"])
def client(request: pytest.FixtureRequest, dsn: str, queue: str, consumer: str) -> Any:
    with pgque.connect(dsn, autocommit=request.param) as client:
        prepare(client, queue, consumer)
        yield client
        client.conn.rollback()


@pytest.mark.parametrize("lose", [lose_by_discard, lose_by_deallocate])
@pytest.mark.parametrize("call", CALLS)
def test_outside_a_transaction_the_call_is_repeated(
    client: PgqueClient, queue: str, consumer: str, call: str, lose: Callable[[PgqueClient], None]
) -> None:
    lose(client)
    client.conn.commit()  # not rollback, because that makes psycopg forget its prepared statements
    for _ in range(7):
        CALLS[call](client, queue, consumer)


@pytest.mark.parametrize("call", CALLS)
def test_inside_a_transaction_the_error_can_be_retried(
    client: PgqueClient, queue: str, consumer: str, call: str, autoconn: psycopg.Connection
) -> None:
    def transaction() -> None:
        with client.conn.transaction():
            CALLS[call](client, queue, consumer)

    lose_by_deallocate(client)
    client.conn.commit()
    before = autoconn.execute("select count(*) from pgque.event_1").fetchone()
    with pytest.raises(pgque.PgqueRetryable) as caught:
        transaction()
    assert caught.value.sqlstate == "26000"
    assert autoconn.execute("select count(*) from pgque.event_1").fetchone() == before
    transaction()


def test_a_function_with_a_changed_result_type_is_prepared_again(
    client: PgqueClient, autoconn: psycopg.Connection
) -> None:
    autoconn.execute("create function f() returns int return 1")
    for _ in range(7):
        assert client._value("select f()") == 1
    client.conn.commit()
    autoconn.execute("drop function f()")
    autoconn.execute("create function f() returns text return 'one'")
    assert client._value("select f()") == "one"
    client.conn.commit()
    for _ in range(7):
        assert client._value("select f()") == "one"
    client.conn.commit()
    autoconn.execute("drop function f()")
    autoconn.execute("create function f() returns int return 1")
    with pytest.raises(pgque.PgqueRetryable), client.conn.transaction():
        client._value("select f()")
    assert client._value("select f()") == 1


def test_reinstalling_pgque_causes_no_error(client: PgqueClient, queue: str, dsn: str) -> None:
    from pgque.install import install

    install(dsn)
    for _ in range(7):
        client.send(queue, "x")


def test_a_statement_lost_inside_a_function_is_not_repeated_forever(
    client: PgqueClient, autoconn: psycopg.Connection
) -> None:
    autoconn.execute(
        "create function g() returns int language plpgsql as "
        "$$ begin execute 'execute lost'; end $$"
    )
    with pytest.raises(pgque.PgqueRetryable):
        client._value("select g()")
