"""Consumers of the test's queue, and a client."""

import pytest

import pgque
from pgque import Consumer


@pytest.fixture
def client(dsn, queue, consumer):
    with pgque.connect(dsn, autocommit=True) as client:
        yield client


@pytest.fixture
def new(dsn, queue, consumer):
    """Create a consumer of the test's queue."""

    def new(**options) -> Consumer:
        return Consumer(dsn, **{"queue": queue, "name": consumer, "retry_after": 0, **options})

    return new
