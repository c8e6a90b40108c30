"""Shared fixtures of the client's tests."""

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import psycopg
import pytest

from pgque import Message, PgqueClient

Connect = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def client(conn: psycopg.Connection[Any]) -> PgqueClient:
    return PgqueClient(conn)


@pytest.fixture
def tick(autoconn: psycopg.Connection[Any], queue: str) -> Callable[[], None]:
    """Tick the test's queue in a separate transaction."""

    def tick() -> None:
        other = PgqueClient(autoconn)
        other.force_next_tick(queue)
        assert other.ticker(queue) is not None

    return tick


def message(msg_id: int = 1, batch_id: int = 1) -> Message:
    return Message(msg_id, batch_id, "t", "x", 0, datetime.now(timezone.utc))
