"""The part of the client for queues, ticks, information and dead letters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import starmap
from typing import Any, Final

from pgque.errors import PgqueDeadLetterNotFound, PgqueInvalidArgument
from pgque.info import (
    ConsumerInfo,
    ConsumerWait,
    DeadLetter,
    QueueInfo,
    QueueWait,
    ReplayResult,
)
from pgque.wire.calls import (
    Calls,
    as_bytes,
    decode_leniently,
    is_converted,
    server_encoding,
    to_interval,
)

_DEAD_LETTER: Final = (
    "d.dl_id, d.dl_queue_id, dl_consumer_id, d.dl_time, {}, d.ev_id, d.ev_time, "
    "d.ev_txid::text::bigint, d.ev_retry, {}, {}, {}, {}, {}, {}, c.co_name"
)
_TEXTS: Final = (
    "d.dl_reason",
    "d.ev_type",
    "d.ev_data",
    "d.ev_extra1",
    "d.ev_extra2",
    "d.ev_extra3",
    "d.ev_extra4",
)

Setting = str | float | bool | timedelta | None
"""A queue's setting: a text in PostgreSQL's syntax, or a Python value; None means the default."""


class Management(Calls):
    """The calls for administrators (`pgque_admin`) and for monitoring (`pgque_reader`)."""

    def create_queue(self, queue: str, options: Mapping[str, Setting] | None = None) -> int:
        """Create a queue; return 1, or 0 if it exists.

        ``options`` maps settings to values, see `set_queue_config`: ``{"max_retries": 2}``. An
        existing queue keeps its settings. Calls `pgque.create_queue`; needs pgque_admin. Raises
        `PgqueInvalidArgument`, and creates no queue, for an empty name, for a name longer than 57
        bytes and for a wrong option.
        """
        if options is None:
            return int(self._value("select pgque.create_queue(%s::text)", (queue,)))
        if not isinstance(options, Mapping):
            raise PgqueInvalidArgument(f"options must be a mapping, not {type(options).__name__}")
        settings = json.dumps({str(name): _as_text(value) for name, value in options.items()})
        return int(self._value("select pgque.create_queue(%s::text, %s::jsonb)", (queue, settings)))

    def drop_queue(self, queue: str, force: bool = False) -> int:
        """Drop a queue with its events, retries and dead letters; return 1.

        ``force`` drops it even if consumers are attached. Calls `pgque.drop_queue`; needs
        pgque_admin. Raises `PgqueQueueNotFound`, and `PgqueQueueInUse` without ``force``.
        """
        return int(
            self._value("select pgque.drop_queue(%s::text, %s::boolean)", (queue, bool(force)))
        )

    def set_queue_config(self, queue: str, param: str, value: Setting) -> int:
        """Change one setting of a queue; return 1.

        ``param`` is ``ticker_max_count``, ``ticker_max_lag``, ``ticker_idle_period``,
        ``ticker_paused``, ``rotation_period``, ``external_ticker``, ``max_retries`` or
        ``disable_insert``. ``value`` is a text in PostgreSQL's syntax, a number, a bool, a
        timedelta, or None for the default. Calls `pgque.set_queue_config`; needs pgque_admin.
        Raises `PgqueQueueNotFound` and `PgqueInvalidArgument`.
        """
        query = "select pgque.set_queue_config(%s::text, %s::text, %s::text)"
        return int(self._value(query, (queue, param, _as_text(value))))

    def ticker(self, queue: str) -> int | None:
        """Tick a queue if a tick is due; return the tick's id, else None.

        A tick covers the events committed before it. Call it in a separate transaction. Calls
        `pgque.ticker(queue)`; needs pgque_admin. Raises `PgqueQueueNotFound`, `PgqueTickerStopped`
        if the queue is paused or has an external ticker, `PgqueIsolationError` outside READ
        COMMITTED.
        """
        tick = self._value("select pgque.ticker(%s::text)", (queue,))
        return None if tick is None else int(tick)

    def ticker_all(self) -> int:
        """Tick every queue whose tick is due; return their number.

        An error in one queue does not affect the others. Calls `pgque.ticker()`; needs pgque_admin
        and READ COMMITTED (`PgqueIsolationError`).
        """
        return int(self._value("select pgque.ticker()"))

    def force_next_tick(self, queue: str) -> int | None:
        """Make the next `ticker` call tick this queue even if no tick is due.

        Returns the id of the newest tick so far, or None if the queue has none. Calls
        `pgque.force_next_tick`; needs pgque_admin. Raises `PgqueQueueNotFound` and
        `PgqueTickerStopped`.
        """
        tick = self._value("select pgque.force_next_tick(%s::text)", (queue,))
        return None if tick is None else int(tick)

    def force_tick(self, queue: str) -> int | None:
        """Call `force_next_tick`. Deprecated name; it warns."""
        warnings.warn("force_tick is now called force_next_tick", DeprecationWarning, stacklevel=2)
        return self.force_next_tick(queue)

    def queue_info(self, queue: str | None = None) -> list[QueueInfo]:
        """Return the settings and state of one queue, or of all if ``queue`` is None, by name.

        Calls `pgque.get_queue_info`; needs pgque_reader. Raises `PgqueQueueNotFound`.
        """
        rows = self._times(
            """
            select queue_name, queue_ntables, queue_cur_table, queue_rotation_period,
                   queue_switch_time, queue_external_ticker, queue_ticker_paused,
                   queue_ticker_max_count, queue_ticker_max_lag, queue_ticker_idle_period,
                   ticker_lag, ev_per_sec, ev_new, last_tick_id
              from pgque.get_queue_info(%s::text)
            """,
            (queue,),
        )
        return list(starmap(QueueInfo, rows))

    def consumer_info(
        self, queue: str | None = None, consumer: str | None = None
    ) -> list[ConsumerInfo]:
        """Return the positions of consumers, by queue and name; None means all.

        Calls `pgque.get_consumer_info`; needs pgque_reader. Raises `PgqueQueueNotFound` and
        `PgqueConsumerNotFound`.
        """
        rows = self._times(
            """
            select queue_name, consumer_name, lag, last_seen, last_tick, current_batch, next_tick,
                   pending_events
              from pgque.get_consumer_info(%s::text, %s::text)
            """,
            (queue, consumer),
        )
        return list(starmap(ConsumerInfo, rows))

    def queue_wait(self, queue: str | None = None) -> list[QueueWait]:
        """Return how long events have waited for a tick, in one queue or in all, by name.

        Calls `pgque.get_queue_wait`; needs pgque_reader. Raises `PgqueQueueNotFound`.
        """
        rows = self._times(
            "select queue_name, ev_new, waiting, state from pgque.get_queue_wait(%s::text)",
            (queue,),
        )
        return list(starmap(QueueWait, rows))

    def consumer_wait(
        self, queue: str | None = None, consumer: str | None = None
    ) -> list[ConsumerWait]:
        """Return how long events have waited for consumers, by queue and name; None means all.

        Calls `pgque.get_consumer_wait`; needs pgque_reader. Raises `PgqueQueueNotFound` and
        `PgqueConsumerNotFound`.
        """
        rows = self._times(
            """
            select queue_name, consumer_name, waiting, ready, last_seen, current_batch,
                   pending_events, group_name, takeovers, handled, state
              from pgque.get_consumer_wait(%s::text, %s::text)
            """,
            (queue, consumer),
        )
        return list(starmap(ConsumerWait, rows))

    def dead_letters(self, queue: str, limit: int = 100) -> list[DeadLetter]:
        """Return at most ``limit`` dead letters of a queue, newest first.

        Calls `pgque.dlq_inspect`; needs pgque_reader. Raises `PgqueQueueNotFound` and
        `PgqueInvalidArgument`.
        """
        return self._dead_letters(
            "pgque.dlq_inspect(%s::text, %s::int) d using (dl_consumer_id) order by d.dl_id desc",
            (queue, limit),
        )

    def dead_letter(self, dead_letter_id: int) -> DeadLetter:
        """Return one dead letter. Reads `pgque.dead_letter`; needs pgque_reader.

        Raises `PgqueDeadLetterNotFound`.
        """
        found = self._dead_letters(
            "pgque.dead_letter d using (dl_consumer_id) where dl_id = %s::bigint",
            (dead_letter_id,),
        )
        if not found:
            raise PgqueDeadLetterNotFound(f"dead letter entry not found: {dead_letter_id}")
        return found[0]

    def _dead_letters(self, which: str, params: Sequence[Any]) -> list[DeadLetter]:
        """Return dead letters. Bytes that are not valid text are escaped, not an error."""
        is_plain = is_converted(self._conn)
        columns = _DEAD_LETTER.format(*(_TEXTS if is_plain else map(as_bytes, _TEXTS)))
        rows = self._times(
            f"select {columns} from pgque.consumer c (dl_consumer_id, co_name) join {which}",  # noqa: S608
            params,
        )
        if not is_plain:
            encoding = server_encoding(self._conn)
            rows = [decode_leniently(row, encoding) for row in rows]
        return list(starmap(DeadLetter, rows))

    def replay(self, dead_letter_id: int) -> int:
        """Send a dead letter again, to every consumer of its queue, and remove it.

        Returns the id of the new event. Calls `pgque.dlq_replay`; needs pgque_writer. Raises
        `PgqueDeadLetterNotFound`.
        """
        return int(self._value("select pgque.dlq_replay(%s::bigint)", (dead_letter_id,)))

    def replay_all(self, queue: str) -> ReplayResult:
        """Send every dead letter of a queue again; those that fail are kept and counted.

        Calls `pgque.dlq_replay_all`; needs pgque_writer. Raises `PgqueQueueNotFound`.
        """
        (row,) = self._rows(
            "select replayed, failed, first_error from pgque.dlq_replay_all(%s::text)", (queue,)
        )
        return ReplayResult(*row)

    def purge(self, queue: str, older_than: timedelta | float = timedelta(days=30)) -> int:
        """Delete dead letters older than ``older_than`` (seconds or a timedelta); return the count.

        Calls `pgque.dlq_purge`; needs pgque_admin. Raises `PgqueQueueNotFound`.
        """
        age = to_interval(older_than, "older_than")
        return int(self._value("select pgque.dlq_purge(%s::text, %s::interval)", (queue, age)))


def _as_text(value: Setting) -> str | None:
    if isinstance(value, timedelta):
        return f"{value // timedelta(microseconds=1)} microseconds"
    return None if value is None else str(value)
