"""Checks of consumers, retries and dead letters."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from psycopg import sql

from pgque.doctor.finding import Examination, Finding, fault, ok, warning
from pgque.watching.readable import duration
from pgque.watching.states import CONSUMER_STATES

MOST = 5
"""The largest number of consumers that are named."""
OVERDUE = timedelta(minutes=1)
RECENT = timedelta(hours=1)


class _Consumer(NamedTuple):
    """A consumer whose state is not ok, from `pgque.get_consumer_wait`."""

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
    """Yield consumers that are not ok, by the same states as `pgque top` and the dashboard."""
    rows = x.rows(
        "select queue_name, consumer_name, pending_events, waiting, ready, last_seen, "
        "current_batch, group_name, takeovers, state from pgque.get_consumer_wait() "
        "where state <> 'ok' order by array_position(%s::text[], state) desc, waiting desc "
        "limit 100",
        (list(CONSUMER_STATES),),
    )
    bad = [_Consumer(*row) for row in rows]
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
            yield _not_ok(x, one)
            shown += 1
        if shown == MOST:
            return
    if not bad:
        count = x.value("select count(*) from pgque.get_consumer_info()")
        yield ok("consumers", f"{count:,}, all ok")


def _crash_loop(one: _Consumer, holder: _Consumer) -> Finding:
    look = (
        "check the logs of its processes"
        if holder.batch is None
        else f"select * from pgque.get_batch_events({holder.batch})"  # noqa: S608 (a number)
    )
    return fault(
        "consumers",
        f"{one.name} of {one.queue} is in a crash loop: a member's batch was taken over "
        f"{one.takeovers:,} times in a row. One of its messages probably kills the process",
        look,
    )


def _not_ok(x: Examination, one: _Consumer) -> Finding:
    queue, name, seen = one.queue, one.name, duration(one.seen)
    if one.state != "silent":
        make = fault if one.state == "stuck" else warning
        return make(
            "consumers",
            f"{name} of {queue} is {one.state}: it has {one.pending:,} pending events, the oldest "
            f"ready for {duration(one.ready)}",
            f"pgque consumer list {queue}",
        )
    if one.group is not None:
        member = name.removeprefix(f"{one.group}.")
        call = sql.SQL("select pgque.unsubscribe_subconsumer({}, {}, {}, 1)")
        return fault(
            "consumers",
            f"{member}, a member of {one.group} of {queue}, was last seen {seen} ago and holds a "
            "batch. Members without a dead_interval do not take it over",
            "start it, or " + call.format(queue, one.group, member).as_string(x.conn),
        )
    return fault(
        "consumers",
        f"{name} of {queue} was last seen {seen} ago. It has {one.pending:,} pending events, is "
        f"{duration(one.waiting)} behind and keeps {_log_of(x, queue)} from being removed",
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
    """Yield retries that are overdue: they were not put back into the queue."""
    overdue = x.value(
        "select count(*) from (select from pgque.retry_queue "
        "where ev_retry_after < clock_timestamp() - %s limit 10000) due",
        (OVERDUE,),
    )
    if overdue:
        yield fault(
            "retries",
            f"{overdue:,} are overdue by more than {duration(OVERDUE)}",
            "select pgque.maint_retry_events()",
        )
    else:
        yield ok("retries", "none overdue")


def dead_letters(x: Examination) -> Iterator[Finding]:
    """Yield queues with recent dead letters."""
    rows = x.rows(
        "select q.queue_name, count(*) from pgque.dead_letter d "
        "join pgque.queue q on q.queue_id = d.dl_queue_id "
        "where d.dl_time > clock_timestamp() - %s group by q.queue_name order by 2 desc limit 3",
        (RECENT,),
    )
    for queue, count in rows:
        yield warning(
            "dead letters",
            f"{count:,} new in {queue} within the last {duration(RECENT)}",
            f"pgque dead list {queue}",
        )
    if not rows:
        yield ok("dead letters", f"none within the last {duration(RECENT)}")
