"""A pooler for each module, and a database behind it."""

from collections.abc import Iterator

import psycopg
import pytest

import pgque
from tests.fix_pooler import Pooler, running_pooler


@pytest.fixture(scope="module")
def pooler(server_dsn: str) -> Iterator[Pooler]:
    with running_pooler(server_dsn) as pooler:
        yield pooler


@pytest.fixture
def pooled(direct_dsn: str, pooler: Pooler) -> str:
    """Return a DSN of the test's database through the pooler."""
    return pooler.dsn(direct_dsn)


@pytest.fixture
def direct(direct_dsn: str) -> Iterator[psycopg.Connection]:
    """Return a direct autocommit connection to a database with a queue and a consumer."""
    with psycopg.connect(direct_dsn, autocommit=True) as conn:
        client = pgque.PgqueClient(conn)
        client.create_queue("q")
        client.subscribe("q", "c")
        yield conn
