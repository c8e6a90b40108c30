"""The rows that the client's information calls return, with the names of the SQL columns."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple


class QueueInfo(NamedTuple):
    """A queue's settings and the state of its ticker (`pgque.get_queue_info`).

    ``ticker_lag`` is the age of the newest tick, ``ev_per_sec`` the number of events per second
    over the last minute, ``ev_new`` the number of events that no tick covers yet.
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
    """A consumer of a queue and its position (`pgque.get_consumer_info`).

    ``lag`` is defined as in PgQ: the age of the consumer's last finished tick, or 0 if it has
    nothing to do. The first event after a quiet hour raises it to an hour at once; `ConsumerWait`
    has the time that events have really waited. ``last_seen`` is the time since the last sign of
    life, ``current_batch`` the open batch, ``pending_events`` an upper bound for the events still
    to be delivered.
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
    """How long the events of a queue have waited for a tick (`pgque.get_queue_wait`).

    ``ev_new`` is the number of events that no tick covers yet, ``waiting`` the time that the oldest
    of them has waited. ``state`` is ``paused``, ``no tick`` (the oldest has waited for 10 seconds
    longer than ticker_max_lag) or ``ok``.
    """

    queue_name: str
    ev_new: int | None
    waiting: timedelta
    state: str


class ConsumerWait(NamedTuple):
    """How long a consumer's oldest pending event has waited (`pgque.get_consumer_wait`).

    ``waiting`` is the time since the event's commit, as precisely as the ticks allow. ``ready`` is
    the time since the tick that made the event available. Both are 0 if no event is pending.
    ``pending_events`` is an upper bound for the pending events. For a group it counts events not
    yet given to a member; for a member, whose ``group_name`` is set, those in its open batch.
    ``takeovers`` is how many times in a row the open batch was taken over from a dead member.
    ``handled`` is a counter that grows with the finished events.

    ``state`` is ``ok``, ``behind`` (ready for a minute), ``stuck`` (ready for ten minutes),
    ``silent`` (stuck, and no sign of life for ten minutes) or ``crash loop`` (three takeovers in a
    row).
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

    ``dl_id`` is the id for `PgqueClient.replay`; ``ev_data`` is the payload as stored.
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
    """The result of `PgqueClient.replay_all`: events sent again, failures, the first error."""

    replayed: int
    failed: int
    first_error: str | None
