"""One thread that takes samples for everybody who looks."""

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
from pgque.dashboard.bell import Bell
from pgque.dashboard.history import History
from pgque.dashboard.looking import Eye, View, reading_connection
from pgque.errors import PgqueError
from pgque.logs import Fields
from pgque.wire.background import Backoff

logger = logging.getLogger("pgque.dashboard")

LINGER: Final = 1800.0
"""Seconds for which samples are taken after the last one who looked."""
REST: Final = 9.0
"""A sample of thousands of queues takes long: after it there is a pause so many times as long. The
quicker of the last two counts, as a slow moment may be over."""


class State(NamedTuple):
    """What is known at one moment."""

    number: int
    """Grows with each state."""
    view: View | None
    error: str | None
    """What came in place of a sample."""
    since: float
    """Seconds since 1970: since when there is none, by this machine's clock."""


class Sampler:
    """Takes samples while somebody looks and half an hour longer, and keeps what plots need.

    A server that is lost is a state like any other: it is tried again within two seconds.

    :param dsn: libpq connection string; its role needs pgque_reader.
    :param every: seconds between samples, default 1. With thousands of queues there are fewer.
    :param always: goes on, once it was started, when nobody looks.
    """

    def __init__(self, dsn: str, *, every: float = 1.0, always: bool = False) -> None:
        self.history = History()
        self.bell = Bell()
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
        """How many look at this moment."""
        return self._viewers

    def start(self) -> None:
        """Take samples from now on; nothing where they are being taken."""
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
        """Take no more samples and close the connection. `start` begins anew."""
        atexit.unregister(self.stop)
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(5)

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Take samples within the block and a while after it."""
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
        """Return the newest state's number and its frame as JSON, made once for all who look.

        :param queue: which queue's; None is the overview.
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
                    eye = Eye(conn)
                    before = 0.0
                    while self._goes_on():
                        began = time.monotonic()
                        self._show(eye.look())
                        backoff.reset()
                        took = time.monotonic() - began
                        self._stop.wait(max(self._every - took, min(took, before) * REST))
                        before = took
                return
            except Exception as error:
                if not isinstance(error, PgqueError):
                    logger.exception("a sample failed")
                self._say(str(error) or type(error).__name__)
                self._stop.wait(backoff.next())

    def _goes_on(self) -> bool:
        with self._guard:
            recently = time.monotonic() - self._looked_at < LINGER
            if not self._stop.is_set() and (self._always or self._viewers or recently):
                return True
            self._thread = None
            return False

    def _show(self, view: View) -> None:
        self.history.record(view.sample.at, frames.all_points(view))
        self._become(view, None)

    def _say(self, error: str) -> None:
        if self._state.error is None:
            said = " ".join(error.split())
            logger.warning("no sample: %s", said, extra=Fields(error=said))
        self._become(None, error)

    def _become(self, view: View | None, error: str | None) -> None:
        before = self._state
        was_like_this = before.number > 0 and (before.error is None) == (error is None)
        since = before.since if was_like_this else time.time()
        self._state = State(before.number + 1, view, error, since)
        self.bell.ring()


def _encode(state: State, queue: str | None) -> bytes:
    found: dict[str, Any]
    if state.view is not None:
        shown = (
            frames.overview(state.view) if queue is None else frames.one_queue(state.view, queue)
        )
        found = {"state": "live", **shown}
    elif state.error is not None:
        found = {"state": "lost", "error": state.error, "since": state.since}
    else:
        found = {"state": "waiting"}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
