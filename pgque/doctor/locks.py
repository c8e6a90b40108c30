"""Checks pgque's advisory locks: any session that can connect can take and keep them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from pgque.doctor.finding import Examination, Finding, fault, ok
from pgque.watching.readable import duration

PATIENCE = 5.0
"""Seconds. No call holds one of these locks exclusively for this long."""
LONGEST_QUERY = 60

# See sql/due. Only some users may see when other users' transactions began. A session that
# holds a lock outside a transaction has held it at least since its last statement.
_HELD = """
    with names as (
        select hashtextextended(queue_name, 1885827449) as key, queue_name
        from pgque.get_queue_info()
    )
    select
        case l.classid
            when 1885827445 then 'installation lock'
            when 1885827446 then 'tick lock of ' || coalesce(q.queue_name, l.objid::text)
            when 1885827447 then 'ticker leader lock'
            when 1885827448 then
                case l.objid when 0 then 'ledger rotation lock' else 'send functions lock' end
            else 'name lock of ' || n.queue_name
        end,
        l.pid, a.usename::text, a.application_name, a.state,
        clock_timestamp() - coalesce(a.xact_start, a.state_change), left(a.query, %s)
    from pg_locks l
    join pg_stat_activity a on a.pid = l.pid
    left join pgque.queue q on q.queue_id = l.objid::int8
    left join names n on l.objsubid = 1 and n.key = (l.classid::int8 << 32) | l.objid::int8
    where l.locktype = 'advisory'
        and l.granted
        and l.mode = 'ExclusiveLock'
        and l.database = (select oid from pg_database where datname = current_database())
        and (n.key is not null or (l.objsubid = 2 and l.classid between 1885827445 and 1885827448))
        and (l.classid <> 1885827447 or l.objsubid = 1 or a.query !~* 'pgque')
        and coalesce(clock_timestamp() - coalesce(a.xact_start, a.state_change) > %s, true)
    order by 1, 2
"""


def held(x: Examination) -> Iterator[Finding]:
    """Yield sessions that hold one of pgque's locks for longer than any call does."""
    found = False
    for what, pid, user, application, state, age, query in x.rows(
        _HELD, (LONGEST_QUERY, timedelta(seconds=PATIENCE))
    ):
        if age is None and not _is_late(x):
            continue  # another user's session, which may be working
        found = True
        who = f"backend {pid}" + (f" of {user}" if user else "")
        who += f" ({application})" if application else ""
        doing = f", {state}: {' '.join(query.split())}" if state and query else ""
        since = f" for {duration(age)}" if age is not None else ""
        yield fault(
            "locks",
            f"{who} holds the {what}{since}{doing}",
            f"select pg_terminate_backend({pid})",
        )
    if not found:
        yield ok("locks", "no session holds one of pgque's locks for long")


def _is_late(x: Examination) -> bool:
    waits = "select coalesce(max(waiting) > %s, false) from pgque.get_queue_wait()"
    return bool(x.value(waits, (timedelta(seconds=PATIENCE),)))
