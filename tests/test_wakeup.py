"""Waiting for notifications, and interrupting the wait."""

import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

import pgque
from pgque.wire.wakeup import Wakeup
from tests.fix_pooler import directly
from tests.running import PATIENCE


@pytest.fixture
def wakeup(dsn: str) -> Iterator[Wakeup]:
    with Wakeup(dsn, ["a", "b"]) as wakeup:
        yield wakeup


def wait_for(wakeup: Wakeup, seconds: float) -> None:
    """Wait until one wait of this many seconds runs to its end."""
    waited = 0.0
    while waited < seconds * 0.9:
        began = time.monotonic()
        wakeup.wait(seconds)
        waited = time.monotonic() - began


@directly
def test_a_notification_ends_the_wait(wakeup: Wakeup, autoconn: psycopg.Connection) -> None:
    threading.Timer(0.1, autoconn.execute, ["notify a"]).start()
    assert wakeup.wait(PATIENCE) == {"a"}
    assert wakeup.wait(0) == set()
    autoconn.execute("notify a")
    autoconn.execute("notify b")
    autoconn.execute("notify c")
    heard: set[str] = set()
    while heard != {"a", "b"}:
        heard |= wakeup.wait(PATIENCE)


@directly
def test_a_notification_that_arrives_with_a_query_result_is_kept(
    wakeup: Wakeup, autoconn: psycopg.Connection
) -> None:
    autoconn.execute("notify b")
    wakeup.conn.execute("select 1")
    began = time.monotonic()
    assert wakeup.wait(PATIENCE) == {"b"}
    assert time.monotonic() - began < PATIENCE


def test_a_ring_ends_the_wait(wakeup: Wakeup) -> None:
    for _ in range(100_000):  # more than a socket buffer can hold
        wakeup.ring()
    wait_for(wakeup, 0.2)
    threading.Timer(0.1, wakeup.ring).start()
    began = time.monotonic()
    assert wakeup.wait(PATIENCE) == set()
    assert time.monotonic() - began < PATIENCE


def test_a_wait_without_notification_returns_an_empty_set(wakeup: Wakeup) -> None:
    began = time.monotonic()
    assert wakeup.wait(0.1) == set()
    assert time.monotonic() - began >= 0.09


@directly
def test_a_broken_connection_is_an_error(wakeup: Wakeup, autoconn: psycopg.Connection) -> None:
    autoconn.execute("select pg_terminate_backend(%s, 10000)", [wakeup.conn.info.backend_pid])
    with pytest.raises(pgque.PgqueConnectionError):
        wait_for(wakeup, PATIENCE)


def test_a_closed_wakeup_can_still_be_rung(wakeup: Wakeup) -> None:
    wakeup.close()
    wakeup.ring()
