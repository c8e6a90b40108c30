"""What the information calls of the client return: rows with the names of their SQL columns."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple


class QueueInfo(NamedTuple):
    """A queue: its settings, and how its ticker keeps up (`pgque.get_queue_info`).

    ``ticker_lag`` is the age of the newest tick, ``ev_per_sec`` events per second over the last
    minute, ``ev_new`` events that no tick covers yet.
    """

    queue_name: str
    queue_ntables: int
    queue_cur_table: int
    queue_rotation_period: timedelta
    queue_switch_time: datetime
    queue_external_ticker: bool
    queue_ticker_paused: bool
    queue_ticker_max_count: int
    queue_ticker_max_lag: timedelta
    queue_ticker_idle_period: timedelta
    ticker_lag: timedelta | None
    ev_per_sec: float | None
    ev_new: int | None
    last_tick_id: int | None


class ConsumerInfo(NamedTuple):
    """A consumer of a queue and where it stands (`pgque.get_consumer_info`).

    ``lag`` is PgQ's: the age of what it has done, old after a quiet hour too; for how long its
    oldest event has waited is in `ConsumerWait`. ``last_seen`` is the time since its last sign of
    life, ``current_batch`` the batch that it holds, ``pending_events`` how many events come at
    most.
    """

    queue_name: str
    consumer_name: str
    lag: timedelta | None
    last_seen: timedelta | None
    last_tick: int | None
    current_batch: int | None
    next_tick: int | None
    pending_events: int | None


class QueueWait(NamedTuple):
    """For how long the events of a queue have waited for a tick (`pgque.get_queue_wait`).

    ``ev_new`` is how many no tick covers yet, ``waiting`` for how long the oldest has waited for
    one. ``state`` is ``paused``, ``no tick`` (the oldest has waited for 10 seconds longer than
    ticker_max_lag) or ``ok``.
    """

    queue_name: str
    ev_new: int | None
    waiting: timedelta
    state: str


class ConsumerWait(NamedTuple):
    """For how long the oldest event before a consumer has waited (`pgque.get_consumer_wait`).

    ``waiting`` counts from its commit, as nearly as ticks tell, ``ready`` from the tick with which
    the consumer could have had it; both are 0 if nothing is before it. ``pending_events`` is how
    many events come at most: of a group those that no member was given, of a member, whose
    ``group_name`` is set, those that it holds. ``takeovers`` is how often in a row what it holds
    was taken over from a member that died. ``handled`` grows with the events that it finished.

    ``state`` is ``ok``, ``behind`` (ready for a minute), ``stuck`` (ready for ten), ``silent`` (and
    no sign of life for as long) or ``crash loop`` (three takeovers in a row).
    """

    queue_name: str
    consumer_name: str
    waiting: timedelta
    ready: timedelta
    last_seen: timedelta | None
    current_batch: int | None
    pending_events: int | None
    group_name: str | None
    takeovers: int
    handled: int | None
    state: str


class DeadLetter(NamedTuple):
    """An event that a consumer could not handle (`pgque.dlq_inspect`), with the consumer's name.

    ``dl_id`` is what `PgqueClient.replay` takes; ``ev_data`` is the payload as it was stored.
    """

    dl_id: int
    dl_queue_id: int
    dl_consumer_id: int
    dl_time: datetime
    dl_reason: str | None
    ev_id: int
    ev_time: datetime | None
    ev_txid: int | None
    ev_retry: int | None
    ev_type: str | None
    ev_data: str | None
    ev_extra1: str | None
    ev_extra2: str | None
    ev_extra3: str | None
    ev_extra4: str | None
    consumer_name: str


class ReplayResult(NamedTuple):
    """What `PgqueClient.replay_all` did: events sent again, failures, and the first one's text."""

    replayed: int
    failed: int
    first_error: str | None
