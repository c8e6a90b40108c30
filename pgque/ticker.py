"""The ticker: a process, or a thread of a consumer, that ticks, retries and maintains.

Several tickers may run. A session lock decides which one leads. The others stand by and try to take
the lock once a second, so a killed leader is replaced within a second after the server notices.
Behind a pooler a ticker has no session to itself. There all of them tick, under each queue's lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import psycopg

from pgque.client import check_connection
from pgque.errors import PgqueError, mapped
from pgque.logs import Fields
from pgque.wire.background import Backoff, stop_on_signals, warn_of_pause
from pgque.wire.wakeup import Wakeup, say_that_it_polls

if TYPE_CHECKING:
    from typing_extensions import LiteralString

logger = logging.getLogger("pgque.ticker")

CHANNEL = "pgque_ticker"
LEADER = (
    "select pid from pg_locks where locktype = 'advisory' and classid = 1885827447 and objid = 0 "
    "and objsubid = 2 and granted "
    "and database = (select oid from pg_database where datname = current_database())"
)
"""Query for the backend of the leading ticker. Every role may run it."""
STANDBY_PAUSE = 1.0
AWAKE_FOR = 0.2
UNRESOLVED_PAUSE = 0.025
ASLEEP_PAUSE = 0.25
SHORTEST_CHORE_PAUSE = 0.02
RETRY_EVERY = 0.1
MAINTAIN_EVERY = 1.0
REPEAT_WARNING_AFTER = 60.0
LOOK_FOR_LATE_TICKS_EVERY = 5.0
STAND_IN_FOR = 60.0
"""Seconds that a standby ticker ticks after it found that the leader did not."""
GONE_AFTER = "3s"
"""The server ends a ticker's session that has been idle this long, so that a process that hangs or
a machine that is gone does not keep the lead."""


class Ticker:
    """Ticks every queue of a database, puts retries back and rotates, as long as it leads.

    :param dsn: libpq connection string; the role needs pgque_admin.
    :param interval: seconds between two polls while there is traffic, default 0.001. Without
        traffic it polls four times a second, and the first send wakes it.
    :param listen: further channels to listen to.
    :param on_notify: called in the thread of `run` with the set of notified channels, and with an
        empty set after each connection.
    :param required: whether `run` raises if the role may not tick; otherwise it only listens.

    Calls `pgque.ticker`, `pgque.maint_retry_events`, `pgque.maint` and `pgque.ticker_may_sleep`.
    """

    def __init__(
        self,
        dsn: str,
        *,
        interval: float = 0.001,
        listen: Iterable[str] = (),
        on_notify: Callable[[set[str]], None] | None = None,
        required: bool = True,
    ) -> None:
        self._dsn = dsn
        self._interval = interval
        self._channels = tuple(listen)
        self._on_notify = on_notify or (lambda channels: None)
        self._required = required
        self._stop = threading.Event()
        self._leading = False
        self._listening = False
        self._warned: dict[str, float] = {}
        self._looked = self._stands_in_until = float("-inf")
        self._chores: list[_Chore] = []
        self._longest_pause = STANDBY_PAUSE
        self._wakeup: Wakeup | None = None

    @property
    def leading(self) -> bool:
        """Whether this ticker leads at the moment."""
        return self._leading

    @property
    def listening(self) -> bool:
        """Whether notifications reach this ticker: it is connected, and not through a pooler."""
        return self._listening

    def add_chore(
        self, chore: Callable[[psycopg.Connection[Any]], None], every: float = STANDBY_PAUSE
    ) -> None:
        """Run a function on the ticker's connection, every ``every`` seconds."""
        self._chores.append(_Chore(chore, every))
        self._longest_pause = min(self._longest_pause, max(every, SHORTEST_CHORE_PAUSE))

    def run(self) -> None:
        """Tick until SIGTERM, SIGINT or `stop`; reconnect after any error of the database.

        :raises PgqueError: if the first connection fails, or finds no usable schema.
        """
        backoff = Backoff()
        connected_before = False
        with stop_on_signals(self.stop):
            while not self._stop.is_set():
                self._leading = self._listening = False
                try:
                    with Wakeup(self._dsn, self._channels) as wakeup:
                        self._wakeup = wakeup
                        check_connection(wakeup.conn)
                        may_tick = self._prepare(wakeup)
                        connected_before = True
                        self._serve(wakeup, may_tick, backoff)
                except PgqueError as error:
                    if not connected_before:
                        raise
                    pause = backoff.next()
                    warn_of_pause(logger, "ticker", error, pause, Fields())
                    self._stop.wait(pause)
                finally:
                    self._leading = self._listening = False

    def stop(self) -> None:
        """Make `run` return after its current call, if any. May be called from any thread."""
        self._stop.set()
        if (wakeup := self._wakeup) is not None:
            wakeup.ring()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> None:
        """Wait this long, or until `stop` is called."""
        self._stop.wait(seconds)

    def _prepare(self, wakeup: Wakeup) -> bool:
        wakeup.conn.add_notice_handler(self._log_notice)
        with mapped:
            row = wakeup.conn.execute(
                "select has_function_privilege('pgque.ticker()', 'execute')"
            ).fetchone()
            may_tick = row is not None and bool(row[0])
            if self._required and not may_tick:
                wakeup.conn.execute("select pgque.ticker()")  # raises the missing permission
            if wakeup.pooled:
                say_that_it_polls(self._dsn)
            else:
                if may_tick:
                    wakeup.conn.execute(f"set idle_session_timeout = '{GONE_AFTER}'")
                # Ticks lost in a crash are repeated: no consumer has acked their events.
                wakeup.conn.execute("set synchronous_commit = off")
                wakeup.conn.execute("set default_transaction_isolation = 'read committed'")
        self._listening = not wakeup.pooled
        self._on_notify(set())
        return may_tick

    def _serve(self, wakeup: Wakeup, may_tick: bool, backoff: Backoff) -> None:
        rounds = _Rounds(wakeup, self._interval)
        # A chore, so that a notification on another channel does not trigger it each time.
        claim = _Chore(lambda conn: self._claim(wakeup, rounds), STANDBY_PAUSE)
        while not self._stop.is_set():
            if may_tick and not self._leading:
                claim.run_if_due(wakeup.conn)
            with mapped:
                for chore in self._chores:
                    chore.run_if_due(wakeup.conn)
                pause = rounds.look() if self._leading else STANDBY_PAUSE
            backoff.reset()
            channels = wakeup.wait(min(pause, self._longest_pause))
            if CHANNEL in channels:
                channels.discard(CHANNEL)
                rounds.wake()
            if channels:
                self._on_notify(channels)

    def _claim(self, wakeup: Wakeup, rounds: _Rounds) -> None:
        self._take_the_lead(wakeup)
        if not self._leading:
            with mapped:
                self._stand_in(wakeup, rounds)

    def _take_the_lead(self, wakeup: Wakeup) -> None:
        if wakeup.pooled:
            self._leading = True  # no session can hold a lock there; the queues' locks suffice
            return
        with mapped:
            row = wakeup.conn.execute("select pg_try_advisory_lock(1885827447, 0)").fetchone()
            if row is None or not row[0]:
                return
            # Only the leader listens: standby tickers would be woken by each send for nothing.
            wakeup.listen(CHANNEL)
        self._leading = True
        logger.info("ticker: leading")

    def _stand_in(self, wakeup: Wakeup, rounds: _Rounds) -> None:
        """Tick once if ticks are late. Two tickers may tick, because each queue has its own lock.

        This is necessary because a leader may hang, and any session can take the leader's lock.
        """
        now = time.monotonic()
        if now >= self._stands_in_until:
            if now - self._looked < LOOK_FOR_LATE_TICKS_EVERY:
                return
            self._looked = now
            late = wakeup.conn.execute("select pgque.ticks_are_late()").fetchone()
            if late is None or not late[0]:
                return
            self._stands_in_until = now + STAND_IN_FOR
            leader = wakeup.conn.execute(LEADER).fetchone()
            text = (
                f"no tick for more than 5 seconds, although backend {leader and leader[0]} leads: "
                "this standby ticks too"
            )
            logger.warning("ticker: %s", text, extra=Fields(error=text))
        rounds.look()

    def _log_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        text = notice.message_primary or ""
        now = time.monotonic()
        if now - self._warned.get(text, -REPEAT_WARNING_AFTER) >= REPEAT_WARNING_AFTER:
            self._warned = {text: now} if len(self._warned) > 100 else {**self._warned, text: now}
            logger.warning("ticker: %s", text, extra=Fields(error=text))


class _Chore:
    def __init__(self, run: Callable[[psycopg.Connection[Any]], None], every: float) -> None:
        self._run = run
        self._every = every
        self._last = float("-inf")

    def run_if_due(self, conn: psycopg.Connection[Any]) -> None:
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._run(conn)


class _Rounds:
    """The leader's rounds: ticks, retries, maintenance, and the pauses in between."""

    def __init__(self, wakeup: Wakeup, interval: float) -> None:
        self._conn = wakeup.conn
        self._pooled = wakeup.pooled
        self._interval = interval
        self._retried = self._maintained = float("-inf")
        self._asleep = self._unresolved = False
        self.wake()

    def wake(self) -> None:
        self._asleep = False
        self._active = time.monotonic()

    def look(self) -> float:
        now = time.monotonic()
        ticked = self._call("select pgque.ticker()")
        if ticked:
            self.wake()
        if to_maintain := now - self._maintained >= MAINTAIN_EVERY:
            self._maintained = self._retried = now
            self._call("select pgque.maint()")
        elif now - self._retried >= RETRY_EVERY:
            self._retried = now
            self._call("select pgque.maint_retry_events()")
        if ticked:
            return self._interval
        # A send that lowers the flag makes a tick due. So while no tick is due the flag is up,
        # unless another session has taken that tick.
        if not self._asleep or self._unresolved or to_maintain:
            self._unresolved = not self._call("select pgque.ticker_may_sleep()")
        if not self._asleep:
            self._asleep = True
            return 0  # the flag is up now: look once more for events sent before that
        if not self._unresolved:
            return ASLEEP_PAUSE
        return self._interval if now - self._active < AWAKE_FOR else UNRESOLVED_PAUSE

    def _call(self, query: LiteralString) -> Any:
        if self._pooled:
            # Set per transaction what is otherwise set per session, in one round trip.
            cursor = self._conn.execute(
                "begin isolation level read committed; "
                f"set local synchronous_commit = off; {query}; commit"
            )
            cursor.nextset()
            cursor.nextset()
        else:
            cursor = self._conn.execute(query)
        row = cursor.fetchone()
        return row and row[0]
