"""The locks that calls take, and their order: found by holding each lock in turn.

A call that waits for one lock already holds the earlier ones. pg_locks shows table locks and
advisory locks. Row locks are found by trying to lock the rows, and uncommitted keys by trying to
insert them.
"""

from pathlib import Path
from typing import NamedTuple

from tests.fix_engine import Connection, column, value
from tests.races.asking import Asked

SCHEMA = (Path(__file__).parent / "locks.sql").read_text()

ROW_MODES = ("FOR KEY SHARE", "FOR SHARE", "FOR NO KEY UPDATE", "FOR UPDATE")
TUPLE_LOCKS = dict(
    zip(
        ("AccessShareLock", "RowShareLock", "ExclusiveLock", "AccessExclusiveLock"),
        ROW_MODES,
        strict=True,
    )
)
"""The modes of a tuple lock in pg_locks, which a session takes before it waits for a row."""

# From the documentation: each table lock mode with the modes that it conflicts with.
TABLE_CONFLICTS = {
    "AccessShareLock": {"AccessExclusiveLock"},
    "RowShareLock": {"ExclusiveLock", "AccessExclusiveLock"},
    "RowExclusiveLock": {
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    },
    "ShareUpdateExclusiveLock": {
        "ShareUpdateExclusiveLock",
        "ShareLock",
        "ShareRowExclusiveLock",
        "ExclusiveLock",
        "AccessExclusiveLock",
    },
}
STRONG_TABLE_LOCKS = {"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}


class Lock(NamedTuple):
    """A locked object and the lock's mode."""

    name: str
    mode: str

    def shuts_out(self, other: "Lock") -> bool:
        if self.name != other.name:
            return False
        if self.mode in ROW_MODES:
            return ROW_MODES.index(self.mode) + ROW_MODES.index(other.mode) >= len(ROW_MODES) - 1
        if self.mode == "key":
            return True
        for one, two in ((self.mode, other.mode), (other.mode, self.mode)):
            if one in TABLE_CONFLICTS:
                return two in TABLE_CONFLICTS[one]
        # Of the other modes, only two ShareLocks are compatible.
        return not self.mode == other.mode == "ShareLock"


class Point(NamedTuple):
    """A lock for the third connection to hold: the object and the statement that locks it."""

    name: str
    statement: str


class Waiting(NamedTuple):
    """A waiting call: the lock that it wants and the locks that it holds."""

    call: str
    wanted: Lock
    held: frozenset[Lock]


HELD = """
    select granted, mode, case
        when l.locktype = 'advisory' and l.objsubid = 1 then
            'name ' || ((l.classid::int8 << 32) | l.objid::int8)
        when l.locktype = 'advisory' then 'advisory ' || l.classid || ':' || l.objid
        when l.locktype = 'tuple' then 'tuple'
        when l.locktype = 'object' then 'function ' || l.objid::regproc
        else l.relation::regclass::text
    end
    from pg_locks l
    left join pg_class c on c.oid = l.relation
    where l.pid = %s
        and (
            l.locktype in ('advisory', 'tuple')
            or (l.locktype = 'object' and l.classid = 'pg_proc'::regclass)
            or (l.locktype = 'relation' and c.relnamespace = 'pgque'::regnamespace
                and c.relkind in ('r', 'S'))
        )
"""


def points(conn: Connection) -> list[Point]:
    """Return every lock that a call might wait for, in its strongest and its weakest mode."""
    found = [
        Point(name, f"select from {table} where {where} {mode}")
        for name, table, where in _rows(conn)
        for mode in ("for update", "for key share")
    ]
    found += [
        Point(name, f"delete from {table} where {where}")
        for name, table, where in _rows(conn)
        if name.startswith(("retry", "dead")) or name in ("subscriber i", "subscriber g.b")
    ]
    there = {name for name, _, _ in _rows(conn)}
    found += [
        Point(name, statement)
        for name, statement in conn.execute("select name, statement from races.keys")
        if name not in there
    ]
    tables = column(
        conn,
        "select oid::regclass::text from pg_class where relnamespace = 'pgque'::regnamespace "
        "and relkind = 'r' and relname ~ '^(event_|tick_|cursor_)'",
    )
    for table in tables:
        found += [
            Point(table, f"lock table {table} in {mode} mode")
            for mode in ("access exclusive", "access share")
        ]
    for sequence in column(conn, "select queue_event_seq from pgque.queue"):
        found += [
            Point(sequence, f"alter sequence {sequence} no cycle"),
            Point(sequence, f"select nextval('{sequence}')"),
        ]
    keys = [(1885827448, 0), (1885827448, 1)]
    keys += [
        (1885827446, queue_id) for queue_id in column(conn, "select queue_id from pgque.queue")
    ]
    for high, low in keys:
        name = f"advisory {high}:{low % 2**32}"
        found += [
            Point(name, f"select pg_advisory_xact_lock{how}({high}, {low})")
            for how in ("", "_shared")
        ]
    for queue in ("q", "x", "new"):
        key = value(conn, "select pgque._name_key(%s)", queue)
        found += [
            Point(f"name {key}", f"select pg_advisory_xact_lock{how}({key})")
            for how in ("", "_shared")
        ]
    return found


def _rows(conn: Connection) -> list[tuple[str, str, str]]:
    """Return the rows that calls lock: a name, the table, the condition."""
    rows = [("config", "pgque.config", "true")]
    rows += [
        (f"queue {name}", "pgque.queue", f"queue_id = {number}")
        for name, number in conn.execute("select queue_name, queue_id from pgque.queue")
    ]
    rows += [
        (f"subscriber {name}", "pgque.subscriber", f"sub_id = {number}")
        for name, number in conn.execute(
            "select co_name, sub_id from pgque.subscriber "
            "join pgque.consumer on co_id = sub_consumer"
        )
    ]
    for number in column(conn, "select ev_id from pgque.retry_queue"):
        rows.append((f"retry {number}", "pgque.retry_queue", f"ev_id = {number}"))
    for number in column(conn, "select ev_id from pgque.dead_letter"):
        rows.append((f"dead letter {number}", "pgque.dead_letter", f"ev_id = {number}"))
    return rows


def look(conn: Connection, asked: Asked, call: str, point: Point) -> Waiting | None:
    """Return how a call waits at the held point, or None if it no longer waits."""
    locks = conn.execute(HELD, [asked.pid]).fetchall()
    held = {Lock(name, mode) for granted, mode, name in locks if granted and name != "tuple"}
    wanted = [Lock(name, mode) for granted, mode, name in locks if not granted]
    row = [TUPLE_LOCKS[mode] for granted, mode, name in locks if granted and name == "tuple"]
    if not wanted:
        wanted = [Lock(point.name, row[0]) if row else Lock(f"key {point.name}", "key")]
    rows = conn.execute("select name, mode from races.held_rows()")
    held |= {Lock(*found) for found in rows if found[0] != point.name}
    keys = column(conn, "select * from races.held_keys(%s)", point.name)
    held |= {Lock(f"key {name}", "key") for name in keys}
    if not asked.waits_for():
        return None
    return Waiting(call, wanted[0], frozenset(held))
