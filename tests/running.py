"""Running consumers and tickers in threads and processes, and waiting for conditions."""

import contextlib
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from pgque import Consumer, Ticker

PATIENCE = 30.0


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until the condition holds; fail if it does not within half a minute."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.01)


def free_port() -> int:
    """A free port of this machine, outside the range that the system assigns automatically."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def backend_of(conn: psycopg.Connection[Any]) -> int:
    """The backend that serves the connection's transaction: its own, or one from a pooler."""
    row = conn.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return row[0]


@contextlib.contextmanager
def running(part: Consumer | Ticker) -> Iterator[threading.Thread]:
    """Run a consumer or a ticker in a thread; its exception is raised at the end."""
    errors: list[BaseException] = []

    def target() -> None:
        try:
            if isinstance(part, Consumer):
                part.start()
            else:
                part.run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    try:
        yield thread
    finally:
        part.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it did not stop"
        if errors:
            raise errors[0]


@contextlib.contextmanager
def process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python script in a separate process; it is killed at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()
