"""Takes snapshots in one thread for all viewers."""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from pgque.dashboard import frames
from pgque.dashboard.history import History
from pgque.dashboard.notifier import Notifier
from pgque.dashboard.snapshot import Snapshot, Snapshotter, reading_connection
from pgque.errors import PgqueError
from pgque.logs import Fields
from pgque.wire.background import Backoff

logger = logging.getLogger("pgque.dashboard")

LINGER: Final = 1800.0
"""Seconds for which snapshots are still taken after the last viewer left."""
REST: Final = 9.0
"""A snapshot of thousands of queues takes long: the pause after it is this many times as long. The
faster of the last two snapshots counts, because one may have been slow by chance."""


class State(NamedTuple):
    """The newest snapshot, or why there is none."""

    number: int
    """Increases with each state."""
    snapshot: Snapshot | None
    error: str | None
    """The error, if the last snapshot failed."""
    since: float
    """When the current run of snapshots or errors began: seconds since 1970, by the local clock."""


class Sampler:
    """Takes snapshots while there are viewers and half an hour longer, and keeps the plots' points.

    If the server is lost, the state holds the error, and the sampler retries within two seconds.

    :param dsn: libpq connection string; its role needs pgque_reader.
    :param every: seconds between snapshots, default 1. With thousands of queues they are longer.
    :param always: whether to continue without viewers once started.
    """

    def __init__(self, dsn: str, *, every: float = 1.0, always: bool = False) -> None:
        self.history = History()
        self.notifier = Notifier()
        self._dsn = dsn
        self._every = every
        self._always = always
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._viewers = 0
        self._looked_at = time.monotonic()
        self._state = State(0, None, None, time.time())
        self._encoding = threading.Lock()
        self._encoded: tuple[int, dict[str | None, bytes]] = (0, {})

    @property
    def state(self) -> State:
        """The newest state."""
        return self._state

    @property
    def viewers(self) -> int:
        """The current number of viewers."""
        return self._viewers

    def start(self) -> None:
        """Start taking snapshots, if not already started."""
        with self._guard:
            self._looked_at = time.monotonic()
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(
                    target=self._run, name="pgque-dashboard", daemon=True
                )
                self._thread.start()
                atexit.register(self.stop)

    def stop(self) -> None:
        """Stop taking snapshots and close the connection. `start` starts again."""
        atexit.unregister(self.stop)
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(5)

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Count a viewer: take snapshots within the block and for `LINGER` seconds after it."""
        with self._guard:
            self._viewers += 1
        try:
            self.start()
            yield
        finally:
            with self._guard:
                self._viewers -= 1
                self._looked_at = time.monotonic()

    def encoded(self, queue: str | None) -> tuple[int, bytes]:
        """Return the newest state's number and its frame as JSON, encoded once for all viewers.

        :param queue: the queue; None for the overview.
        """
        state = self._state
        with self._encoding:
            number, known = self._encoded
            if number != state.number:
                known = {}
                self._encoded = state.number, known
            if queue not in known:
                known[queue] = _encode(state, queue)
            return state.number, known[queue]

    def _run(self) -> None:
        backoff = Backoff()
        while self._goes_on():
            try:
                with reading_connection(self._dsn) as conn:
                    snapshotter = Snapshotter(conn)
                    before = 0.0
                    while self._goes_on():
                        began = time.monotonic()
                        self._show(snapshotter.take())
                        backoff.reset()
                        took = time.monotonic() - began
                        self._stop.wait(max(self._every - took, min(took, before) * REST))
                        before = took
                return
            except Exception as error:
                if not isinstance(error, PgqueError):
                    logger.exception("a snapshot failed")
                self._say(str(error) or type(error).__name__)
                self._stop.wait(backoff.next())

    def _goes_on(self) -> bool:
        with self._guard:
            recently = time.monotonic() - self._looked_at < LINGER
            if not self._stop.is_set() and (self._always or self._viewers or recently):
                return True
            self._thread = None
            return False

    def _show(self, snapshot: Snapshot) -> None:
        self.history.record(snapshot.sample.at, frames.all_points(snapshot))
        self._become(snapshot, None)

    def _say(self, error: str) -> None:
        if self._state.error is None:
            said = " ".join(error.split())
            logger.warning("snapshot failed: %s", said, extra=Fields(error=said))
        self._become(None, error)

    def _become(self, snapshot: Snapshot | None, error: str | None) -> None:
        before = self._state
        was_like_this = before.number > 0 and (before.error is None) == (error is None)
        since = before.since if was_like_this else time.time()
        self._state = State(before.number + 1, snapshot, error, since)
        self.notifier.notify()


def _encode(state: State, queue: str | None) -> bytes:
    found: dict[str, Any]
    if state.snapshot is not None:
        shown = (
            frames.overview(state.snapshot)
            if queue is None
            else frames.one_queue(state.snapshot, queue)
        )
        found = {"state": "live", **shown}
    elif state.error is not None:
        found = {"state": "lost", "error": state.error, "since": state.since}
    else:
        found = {"state": "waiting"}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
