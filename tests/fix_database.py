"""Databases, connections and queues.

Each test has its own database, copied from a template that has pgque installed, so a test may
tick, rotate and drop freely.
"""

import itertools
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgque.install import install
from pgque.testing import Databases
from tests.fix_pooler import POOLED

Connect = Callable[..., psycopg.Connection]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def databases(server_dsn: str) -> Iterator[Databases]:
    with Databases(server_dsn) as databases:
        yield databases


@pytest.fixture(scope="session")
def template(databases: Databases) -> Iterator[str]:
    """The name of a database with pgque installed and no open connections."""
    dsn = databases.create()
    install(dsn)
    yield databases.leave(dsn)
    databases.drop(dsn)


@pytest.fixture
def direct_dsn(databases: Databases, template: str) -> Iterator[str]:
    """The test's own database with pgque, as superuser; never through the pooler, unlike `dsn`."""
    dsn = databases.create(template)
    yield dsn
    databases.drop(dsn)


@pytest.fixture
def dsn(direct_dsn: str, lead: Callable[[str], str]) -> str:
    """The test's own database with pgque, as superuser."""
    return lead(direct_dsn)


@pytest.fixture
def fresh_dsn(dsn: str) -> str:
    """The same as `dsn`: every test has a fresh database."""
    return dsn


@pytest.fixture
def empty_dsn(databases: Databases, lead: Callable[[str], str]) -> Iterator[str]:
    """The test's own database, without pgque."""
    dsn = databases.create()
    yield lead(dsn)
    databases.drop(dsn)


@pytest.fixture
def connect(dsn: str) -> Iterator[Connect]:
    """Open connections to the test's database; all of them are closed at the end."""
    opened: list[psycopg.Connection] = []

    def connect(*, autocommit: bool = False, **options: object) -> psycopg.Connection:
        conn = psycopg.connect(dsn, autocommit=autocommit, **options)
        if POOLED:
            conn.prepare_threshold = None  # the documentation's advice for poolers
        opened.append(conn)
        return conn

    yield connect
    for conn in opened:
        conn.close()


@pytest.fixture
def conn(connect: Connect) -> psycopg.Connection:
    """A connection with psycopg's usual transactions; uncommitted work is rolled back."""
    return connect()


@pytest.fixture
def encoded(server_dsn: str) -> Iterator[Callable[[str], str]]:
    """Create a database with the given encoding and install pgque in it."""
    made: list[str] = []
    with psycopg.connect(server_dsn, autocommit=True) as conn:

        def create(encoding: str) -> str:
            name = f"pgque_in_{encoding.lower()}_{next(_numbers)}"
            conn.execute(
                f"create database {name} encoding '{encoding}' locale 'C' template template0"
            )
            made.append(name)
            dsn = make_conninfo(server_dsn, dbname=name)
            install(dsn)
            return dsn

        yield create
        for name in made:
            conn.execute(f"drop database {name} with (force)")


@pytest.fixture
def autoconn(connect: Connect) -> psycopg.Connection:
    """A connection in autocommit mode."""
    return connect(autocommit=True)


@pytest.fixture
def queue(autoconn: psycopg.Connection) -> str:
    """The name of a new queue."""
    name = f"queue_{next(_numbers)}"
    autoconn.execute("select pgque.create_queue(%s)", [name])
    return name


@pytest.fixture
def consumer(autoconn: psycopg.Connection, queue: str) -> str:
    """The name of a consumer subscribed to `queue`."""
    name = f"consumer_{next(_numbers)}"
    autoconn.execute("select pgque.subscribe(%s, %s)", [queue, name])
    return name
