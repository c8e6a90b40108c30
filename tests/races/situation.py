"""The small world in which calls meet: what is set up, and what must hold afterwards.

Queue `q`: consumer `c` holds a batch and has a retry and dead letters, `i` is idle with events to
come, `w` only watches; in group `g` member `a` holds a batch and `b` is idle. One child of the log
may be emptied, and so may one of the ledger; events wait for a tick. Queue `x` is ticked from
outside, and table `captured` has a trigger of each kind.
"""

from pathlib import Path
from typing import Any

import psycopg

from tests.fix_engine import Connection, column, value

SCHEMA = (Path(__file__).parent / "situation.sql").read_text()


def prepare(conn: Connection) -> dict[str, Any]:
    """Set the situation up anew, from nothing: the ids that calls need."""
    conn.execute("call races.prepare()")
    return facts(conn)


def facts(conn: Connection) -> dict[str, Any]:
    found = value(conn, "select * from races.facts")
    found |= {"c_event": found["c_events"][0], "a_event": found["a_events"][0]}
    return found


def faults(conn: Connection) -> list[str]:
    """What is not as it has to be, whatever was called."""
    return column(conn, "select fault from races.faults")


def drain(conn: Connection) -> dict[str, list[int]]:
    """Everything that is still to be delivered, by consumer; none for who is not subscribed."""
    conn.execute("update pgque.retry_queue set ev_retry_after = '-infinity'")
    conn.execute("update pgque.queue set queue_ticker_paused = false")
    conn.execute("select pgque.maint_retry_events()")
    conn.execute("select pgque.force_next_tick('q')")
    conn.execute("select pgque.ticker('q')")
    drained = {}
    for consumer, member in {"c": "", "i": "", "w": "", "g": "b"}.items():
        try:
            drained[consumer] = value(conn, "select races.drained(%s, %s)", consumer, member)
        except psycopg.Error as error:
            # Unsubscribed, or made a group of, or out of one.
            assert error.sqlstate in ("PQ002", "PQ007", "PQ008"), error
    return drained
