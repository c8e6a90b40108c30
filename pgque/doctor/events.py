"""Checks of ticks, restores, the clock and rotation."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from pgque.doctor.finding import Examination, Finding, fault, ok, warning
from pgque.ticker import LEADER
from pgque.watching.readable import duration

STEP = timedelta(seconds=1)
"""Time synchronization never sets a clock back by this much."""


def ticker(x: Examination) -> Iterator[Finding]:
    """Yield the ticker that leads, and queues whose events wait for a tick."""
    leader = [pid for (pid,) in x.rows(LEADER)]
    waiting = _waiting(x) if x.observes else []
    late = [(name, new, lag) for name, new, lag, is_late in waiting if is_late]
    for name, new, lag in late[:3]:
        yield fault(
            "ticker",
            f"{new:,} events in {name} wait for a tick; the last tick was {duration(lag)} ago",
            "pgque ticker" if not leader else f"select pg_terminate_backend({leader[0]})",
        )
    if late:
        return
    if leader:
        behind = (
            f"{len(waiting):,} queues have events to tick" if waiting else "no events are waiting"
        )
        yield ok("ticker", f"running, backend {leader[0]} leads; {behind}")
    elif (scheduled := _pg_cron(x)[0]) == "scheduled":
        yield ok("ticker", "pg_cron ticks")
    elif scheduled == "hidden":
        yield ok(
            "ticker", "no ticker process leads, and no events are waiting; for pg_cron see below"
        )
    else:
        yield warning(
            "ticker",
            "no ticker process leads; queues are ticked only while a Consumer that may tick runs",
            "pgque ticker",
        )


def _waiting(x: Examination) -> list[tuple[str, int, timedelta, bool]]:
    rows = x.rows(
        "select q.queue_name, w.ev_new, q.ticker_lag, "
        "w.state = 'no tick' from pgque.get_queue_wait() w "
        "join pgque.get_queue_info() q using (queue_name) "
        "where not q.queue_ticker_paused and not q.queue_external_ticker and w.ev_new > 0 "
        "order by w.waiting desc"
    )
    return [(name, new, lag, is_late) for name, new, lag, is_late in rows]


def scheduler(x: Examination) -> Iterator[Finding]:
    """Yield the state of pg_cron's jobs, if it is installed."""
    status, detail = _pg_cron(x)
    if status == "hidden" and not x.rows(LEADER):
        yield warning("pg_cron", detail, "run pgque doctor with the DSN of a member of pgque_admin")
    elif status == "stopped" and not x.rows(LEADER):
        yield warning("pg_cron", "installed, but nothing is scheduled", "select pgque.start()")
    else:
        yield ok("pg_cron", detail)


def _pg_cron(x: Examination) -> tuple[str, str]:
    if not x.value("select exists (select from pg_extension where extname = 'pg_cron')"):
        return "absent", "not installed in this database"
    if not x.may_execute("pgque.status()"):
        return "hidden", "installed; only pgque_admin can see whether it ticks"
    [(status, detail)] = x.rows(
        "select status, detail from pgque.status() where component = 'pg_cron'"
    )
    return status, detail


def restored(x: Examination) -> Iterator[Finding]:
    """Yield queues with ticks of another cluster, and losses reported by restores."""
    rows = x.rows(
        "select q.queue_name from pgque.queue q cross join lateral ("
        "select t.tick_snapshot from pgque.tick t where t.tick_queue = q.queue_id "
        "order by t.tick_id desc limit 1) newest "
        "where pg_snapshot_xmax(newest.tick_snapshot) > pg_snapshot_xmax(pg_current_snapshot()) "
        "limit 3"
    )
    for (name,) in rows:
        yield fault(
            "restore",
            f"{name} was restored from another cluster: its ticks are in the future",
            "select pgque.ticker()",
        )
    reports = x.rows(
        "select queue_name, coalesce(consumer_name, '?'), lost_at_most, detail "
        "from pgque.restore_report order by reported_at desc, lost_at_most desc nulls last limit 5"
    )
    for queue, consumer, lost, detail in reports:
        yield (warning if lost is None else fault)(
            "restore",
            f"{consumer} of {queue}: {detail}" + (f" (at most {lost:,})" if lost else ""),
            "see docs/operations.md, Dump and restore, then run: delete from pgque.restore_report",
        )
    if not rows and not reports:
        yield ok("restore", "ticks match this cluster")


def clock(x: Examination) -> Iterator[Finding]:
    """Yield how far the server's clock was set back, judging by stored times."""
    ahead = x.value(
        "select max(known.at) - clock_timestamp() from ("
        "select q.queue_switch_time from pgque.queue q "
        "union all select s.sub_active from pgque.subscription s "
        "union all select t.tick_time from pgque.queue q cross join lateral ("
        "select k.tick_time from pgque.tick k where k.tick_queue = q.queue_id "
        "order by k.tick_id desc limit 1) t) known (at)"
    )
    if ahead is not None and ahead > STEP:
        yield warning(
            "clock",
            f"stored times are up to {duration(ahead)} in the future: the clock was set back",
            "check the clock of the server's host; waiting retries are delayed by the same time",
        )
    else:
        yield ok("clock", "no stored time is in the future")


def paused(x: Examination) -> Iterator[Finding]:
    """Yield queues that are paused or closed by a setting."""
    rows = x.rows(
        "select queue_name, queue_ticker_paused, queue_disable_insert from pgque.queue "
        "where queue_ticker_paused or queue_disable_insert order by queue_name"
    )
    for name, is_paused, is_closed in rows:
        if is_paused:
            yield warning("queues", f"{name} is paused", f"pgque queue resume {name}")
        if is_closed:
            yield warning(
                "queues", f"{name} accepts no events", f"pgque queue set {name} disable_insert"
            )
    if not rows:
        count = x.value("select count(*) from pgque.queue")
        yield ok("queues", f"{count:,}, none paused or closed")


def rotation(x: Examination) -> Iterator[Finding]:
    """Yield queues whose log was not rotated for a long time, and what holds it."""
    rows = x.rows(
        "select q.queue_name, clock_timestamp() - q.queue_switch_time, slowest.consumer_name, "
        "slowest.waiting "
        "from pgque.queue q left join lateral ("
        "select c.consumer_name, c.waiting from pgque.get_consumer_wait(q.queue_name) c "
        "order by c.waiting desc limit 1) slowest on true "
        "where (clock_timestamp() - q.queue_switch_time) / 3 > q.queue_rotation_period "
        "and (select t.tick_seq_after from pgque.tick t where t.tick_queue = q.queue_id "
        "order by t.tick_id desc limit 1) > 0 "  # events were sent; a reader may see no more
        "order by q.queue_switch_time limit 3"
    )
    for name, since, consumer, lag in rows:
        if consumer is not None and lag is not None and lag > since / 3:
            held, mend = f"{consumer}, {duration(lag)} behind", f"pgque consumer list {name}"
        else:
            held, mend = "an old transaction, or maintenance does not run", "select pgque.maint()"
        yield warning(
            "rotation", f"{name} was last rotated {duration(since)} ago. Cause: {held}", mend
        )
    if not rows:
        yield ok("rotation", "space is reclaimed")
