"""Databases, connections and queues.

Each test has a database of its own, copied from a template with pgque in it: tests may
tick, rotate and drop as they like.
"""

import itertools
import os
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgque.install import install
from tests.fix_pooler import POOLED

Connect = Callable[..., psycopg.Connection]

_numbers = itertools.count(1)


class Databases:
    """Makes and drops databases on the server of the test run."""

    def __init__(self, server_dsn: str) -> None:
        self.server_dsn = server_dsn
        self._conn = psycopg.connect(server_dsn, autocommit=True)

    def create(self, template: str = "template1") -> str:
        """Create a database with a name of its own; return its connection string."""
        name = f"pgque_test_{os.getpid()}_{secrets.token_hex(3)}_{next(_numbers)}"
        statement = "create database {} template {}"
        # Copying the files is faster by half than writing them to the log; known since 15.
        if self._conn.info.server_version >= 150000:
            statement += " strategy file_copy"
        self._run(statement, name, template)
        return make_conninfo(self.server_dsn, dbname=name)

    def drop(self, dsn: str) -> None:
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        self._run("drop database if exists {} with (force)", name)

    def close(self) -> None:
        self._conn.close()

    def _run(self, statement: str, *names: str) -> None:
        query = sql.SQL(statement).format(*map(sql.Identifier, names))
        try:
            self._conn.execute(query)
        except psycopg.OperationalError:
            if not self._conn.closed:
                raise
            # A test may have ended all sessions of the server.
            self._conn = psycopg.connect(self.server_dsn, autocommit=True)
            self._conn.execute(query)


@pytest.fixture(scope="session")
def databases(server_dsn: str) -> Iterator[Databases]:
    databases = Databases(server_dsn)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def template(databases: Databases) -> Iterator[str]:
    """The name of a database with pgque in it and nobody connected."""
    dsn = databases.create()
    install(dsn)
    yield psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    databases.drop(dsn)


@pytest.fixture
def direct_dsn(databases: Databases, template: str) -> Iterator[str]:
    """A database of the test's own with pgque in it, as superuser, whatever `dsn` leads through."""
    dsn = databases.create(template)
    yield dsn
    databases.drop(dsn)


@pytest.fixture
def dsn(direct_dsn: str, lead: Callable[[str], str]) -> str:
    """A database of the test's own with pgque in it, as superuser."""
    return lead(direct_dsn)


@pytest.fixture
def fresh_dsn(dsn: str) -> str:
    """The same as `dsn`: every test has a fresh database."""
    return dsn


@pytest.fixture
def empty_dsn(databases: Databases, lead: Callable[[str], str]) -> Iterator[str]:
    """A database of the test's own without pgque."""
    dsn = databases.create()
    yield lead(dsn)
    databases.drop(dsn)


@pytest.fixture
def connect(dsn: str) -> Iterator[Connect]:
    """Open connections to the test's database; all are closed at the end."""
    opened: list[psycopg.Connection] = []

    def connect(*, autocommit: bool = False, **options: object) -> psycopg.Connection:
        conn = psycopg.connect(dsn, autocommit=autocommit, **options)
        if POOLED:
            conn.prepare_threshold = None  # what the documentation asks of an application there
        opened.append(conn)
        return conn

    yield connect
    for conn in opened:
        conn.close()


@pytest.fixture
def conn(connect: Connect) -> psycopg.Connection:
    """A connection with psycopg's usual transactions; what is not committed is undone."""
    return connect()


@pytest.fixture
def autoconn(connect: Connect) -> psycopg.Connection:
    """A connection on which each statement is a transaction."""
    return connect(autocommit=True)


@pytest.fixture
def queue(autoconn: psycopg.Connection) -> str:
    """The name of a new queue."""
    name = f"queue_{next(_numbers)}"
    autoconn.execute("select pgque.create_queue(%s)", [name])
    return name


@pytest.fixture
def consumer(autoconn: psycopg.Connection, queue: str) -> str:
    """The name of a consumer that is subscribed to `queue`."""
    name = f"consumer_{next(_numbers)}"
    autoconn.execute("select pgque.subscribe(%s, %s)", [queue, name])
    return name
