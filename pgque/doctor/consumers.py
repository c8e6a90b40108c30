"""Consumers: who stands still, what fails, what has died."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from psycopg import sql

from pgque.doctor.finding import Examination, Finding, fault, ok, warning
from pgque.watching.readable import duration
from pgque.watching.states import CONSUMER_STATES

MOST = 5
"""Consumers that are named."""
OVERDUE = timedelta(minutes=1)
RECENT = timedelta(hours=1)


class _Bad(NamedTuple):
    """A consumer that is not ok, as `pgque.get_consumer_wait` has it."""

    queue: str
    name: str
    pending: int
    waiting: timedelta
    ready: timedelta
    seen: timedelta
    batch: int | None
    group: str | None
    takeovers: int
    state: str


def states(x: Examination) -> Iterator[Finding]:
    """Yield consumers that are not ok: the words are those of `pgque top` and the dashboard."""
    rows = x.rows(
        "select queue_name, consumer_name, pending_events, waiting, ready, last_seen, "
        "current_batch, group_name, takeovers, state from pgque.get_consumer_wait() "
        "where state <> 'ok' order by array_position(%s::text[], state) desc, waiting desc "
        "limit 100",
        (list(CONSUMER_STATES),),
    )
    bad = [_Bad(*row) for row in rows]
    groups = {(one.queue, one.name): one for one in bad}
    members = {(one.queue, one.group): one for one in reversed(bad) if one.group is not None}
    shown = 0
    for one in bad:
        group = groups.get((one.queue, one.group or ""))
        member = members.get((one.queue, one.name))
        if one.state == "crash loop":
            if group is None or group.state != one.state:
                yield _crash_loop(one, member or one)
                shown += 1
        elif member is None and (group is None or group.state != "crash loop"):
            yield _stands(x, one)
            shown += 1
        if shown == MOST:
            return
    if not bad:
        count = x.value("select count(*) from pgque.get_consumer_info()")
        yield ok("consumers", f"{count:,}, none stands still")


def _crash_loop(one: _Bad, holder: _Bad) -> Finding:
    look = (
        "see the log of its processes"
        if holder.batch is None
        else f"select * from pgque.get_batch_events({holder.batch})"  # noqa: S608 (a number)
    )
    return fault(
        "consumers",
        f"{one.name} of {one.queue} is in a crash loop: what a member holds was taken over "
        f"{one.takeovers:,} times in a row. One of its messages seems to kill its process",
        look,
    )


def _stands(x: Examination, one: _Bad) -> Finding:
    queue, name, seen = one.queue, one.name, duration(one.seen)
    if one.state != "silent":
        make = fault if one.state == "stuck" else warning
        return make(
            "consumers",
            f"{name} of {queue} is {one.state}: of {one.pending:,} events before it the oldest "
            f"has been ready for {duration(one.ready)}",
            f"pgque consumer list {queue}",
        )
    if one.group is not None:
        member = name.removeprefix(f"{one.group}.")
        call = sql.SQL("select pgque.unsubscribe_subconsumer({}, {}, {}, 1)")
        return fault(
            "consumers",
            f"{member}, a member of {one.group} of {queue}, was last seen {seen} ago and holds a "
            "batch, which waits for it where its siblings have no dead_interval",
            "start it, or " + call.format(queue, one.group, member).as_string(x.conn),
        )
    return fault(
        "consumers",
        f"{name} of {queue} was last seen {seen} ago, with {one.pending:,} events before "
        f"it, {duration(one.waiting)} behind: {_log_of(x, queue)} is kept for it",
        f"start it, or pgque consumer unsubscribe {queue} {name}",
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
