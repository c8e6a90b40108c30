"""Consumers: who stands still, what fails, what has died."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from psycopg import sql

from pgque import live
from pgque.doctor.finding import Examination, Finding, fault, ok, warning
from pgque.readable import duration

SILENT = timedelta(seconds=live.STUCK)
OVERDUE = timedelta(minutes=1)
RECENT = timedelta(hours=1)


def stuck(x: Examination) -> Iterator[Finding]:
    """Yield consumers that could have something for long and give no sign of life."""
    rows = x.rows(
        "select c.queue_name, c.consumer_name, c.pending_events, c.waiting, c.last_seen, "
        "c.current_batch is not null and exists (select from pgque.get_consumer_wait(c.queue_name) "
        "g where starts_with(c.consumer_name, g.consumer_name || '.')) "
        "from pgque.get_consumer_wait() c "
        "where c.pending_events > 0 and least(c.last_seen, c.ready) > %s "
        "order by c.waiting desc limit 5",
        (SILENT,),
    )
    for queue, name, pending, waiting, seen, is_member in rows:
        if is_member:
            yield _silent_member(x, queue, name, seen)
            continue
        yield warning(
            "consumers",
            f"{name} of {queue} was last seen {duration(seen)} ago, with {pending:,} events before "
            f"it, {duration(waiting)} behind: {_log_of(x, queue)} is kept for it",
            f"start it, or pgque consumer unsubscribe {queue} {name}",
        )
    if not rows:
        count = x.value("select count(*) from pgque.get_consumer_info()")
        yield ok("consumers", f"{count:,}, none stands still")


def _silent_member(x: Examination, queue: str, name: str, seen: timedelta) -> Finding:
    group, _, member = name.rpartition(".")
    call = sql.SQL("select pgque.unsubscribe_subconsumer({}, {}, {}, 1)")
    return warning(
        "consumers",
        f"{member}, a member of {group} of {queue}, was last seen {duration(seen)} ago and holds a "
        "batch, which waits for it where its siblings have no dead_interval",
        "start it, or " + call.format(queue, group, member).as_string(x.conn),
    )


def _log_of(x: Examination, queue: str) -> str:
    if not x.reads:
        return "the log"
    size = x.value(
        "select pg_size_pretty(sum(pg_total_relation_size(i.inhrelid))) from pgque.queue q "
        "join pg_inherits i on i.inhparent = q.queue_data_pfx::regclass where q.queue_name = %s",
        (queue,),
    )
    return f"a log of {size}"


def retries(x: Examination) -> Iterator[Finding]:
    """Yield retries that are due and were not put back."""
    overdue = x.value(
        "select count(*) from (select from pgque.retry_queue "
        "where ev_retry_after < clock_timestamp() - %s limit 10000) due",
        (OVERDUE,),
    )
    if overdue:
        yield fault(
            "retries",
            f"{overdue:,} have been due for more than {duration(OVERDUE)}",
            "select pgque.maint_retry_events()",
        )
    else:
        yield ok("retries", "none is overdue")


def dead_letters(x: Examination) -> Iterator[Finding]:
    """Yield queues with new dead letters."""
    rows = x.rows(
        "select q.queue_name, count(*) from pgque.dead_letter d "
        "join pgque.queue q on q.queue_id = d.dl_queue_id "
        "where d.dl_time > clock_timestamp() - %s group by q.queue_name order by 2 desc limit 3",
        (RECENT,),
    )
    for queue, count in rows:
        yield warning(
            "dead letters",
            f"{count:,} more in {queue} within {duration(RECENT)}",
            f"pgque dead list {queue}",
        )
    if not rows:
        yield ok("dead letters", f"none within {duration(RECENT)}")
