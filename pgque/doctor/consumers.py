"""Consumers: who stands still, what fails, what has died."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from pgque.doctor.finding import Examination, Finding, fault, long, ok, warning

SILENT = timedelta(minutes=10)
OVERDUE = timedelta(minutes=1)
RECENT = timedelta(hours=1)


def stuck(x: Examination) -> Iterator[Finding]:
    """Yield consumers that have something before them and give no sign of life."""
    rows = x.rows(
        "select queue_name, consumer_name, pending_events, lag, last_seen "
        "from pgque.get_consumer_info() where pending_events > 0 and last_seen > %s "
        "order by lag desc limit 5",
        (SILENT,),
    )
    for queue, consumer, pending, lag, seen in rows:
        yield warning(
            "consumers",
            f"{consumer} of {queue} was last seen {long(seen)} ago, with {pending:,} events before "
            f"it, {long(lag)} behind: the log is kept for it",
            f"start it, or pgque consumer unsubscribe {queue} {consumer}",
        )
    if not rows:
        count = x.value("select count(*) from pgque.get_consumer_info()")
        yield ok("consumers", f"{count:,}, none stands still")


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
            f"{overdue:,} have been due for more than {long(OVERDUE)}",
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
            f"{count:,} more in {queue} within {long(RECENT)}",
            f"pgque dead list {queue}",
        )
    if not rows:
        yield ok("dead letters", f"none within {long(RECENT)}")
