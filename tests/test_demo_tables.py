"""What the demo creates in a database, and what it removes."""

import pytest

import pgque
from pgque.demo.flights import load
from pgque.demo.tables import QUEUE, set_up, take_lock, tear_down
from pgque.demo.watch import CONSUMERS, Watch


@pytest.fixture
def client(dsn):
    with pgque.connect(dsn, autocommit=True) as client:
        yield client


def schemas(client) -> set[str]:
    rows = client.conn.execute(
        "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)'"
        " or nspname ~ '^pgque'"
    )
    return {name for (name,) in rows}


def test_everything_created_is_removed(client):
    assert set_up(client) is False
    assert {info.consumer_name for info in client.consumer_info(QUEUE)} >= set(CONSUMERS)
    assert tear_down(client) is True
    assert tear_down(client) is False
    assert client.queue_info() == []
    assert schemas(client) == {"pgque"}


def test_leftovers_of_an_earlier_demo_are_removed_first(client):
    set_up(client)
    client.send(QUEUE, "old")
    assert set_up(client) is True
    assert Watch(client).read().sent == 0


def test_a_schema_of_another_application_is_kept(client):
    client.conn.execute("create schema pgque_demo create table precious ()")
    with pytest.raises(pgque.PgqueError, match="schema pgque_demo already"):
        set_up(client)
    assert client.conn.execute("select to_regclass('pgque_demo.precious')").fetchone()[0]
    assert client.queue_info() == []


def test_a_queue_of_another_application_is_kept(client):
    client.create_queue(QUEUE)
    with pytest.raises(pgque.PgqueError, match=f"queue {QUEUE} already"):
        set_up(client)
    assert [info.queue_name for info in client.queue_info()] == [QUEUE]
    assert schemas(client) == {"pgque"}


def test_only_one_demo_runs_at_a_time(dsn, client):
    take_lock(client)
    with (
        pgque.connect(dsn, autocommit=True) as other,
        pytest.raises(pgque.PgqueError, match="another demo"),
    ):
        take_lock(other)


def test_a_role_that_may_not_create_schemas_gets_an_error(dsn, client):
    name = client.conn.info.dbname
    client.conn.execute("create role demo_guest in role pgque_admin")
    try:
        client.conn.execute("set role demo_guest")
        with pytest.raises(pgque.PgquePermissionDenied, match=f"create on database {name}"):
            set_up(client)
    finally:
        client.conn.execute("reset role")
        client.conn.execute("drop role demo_guest")
    assert client.queue_info() == []


def test_the_outcome_counts_each_delivery(client):
    """A flight that a consumer handled twice must have two rows; no key may hide one."""
    set_up(client)
    (first, second) = (flight.payload["id"] for flight in load()[:2])
    for flight in (first, first, second):
        client.conn.execute(
            "insert into pgque_demo.delivery values ('gates', 'g', %s, 0)", [flight]
        )
    outcome = Watch(client).outcome()
    assert outcome.gates == {first: 2, second: 1}
    assert outcome.delays == {}
