"""The situation in which calls race: its setup, and the conditions that must hold afterwards.

Queue `q`: consumer `c` holds a batch and has a retry and dead letters. `i` is idle with unread
events, and `w` never acts. In group `g`, member `a` holds a batch and `b` is idle. One child of the
log can be truncated, and so can one of the ledger. Some events are not ticked yet. Queue `x` has an
external ticker, and table `captured` has a trigger of each kind.
"""

from pathlib import Path
from typing import Any

import psycopg

from tests.fix_engine import Connection, column, value

SCHEMA = (Path(__file__).parent / "situation.sql").read_text()


def prepare(conn: Connection) -> dict[str, Any]:
    """Set up the situation from scratch. Return the ids that calls need."""
    conn.execute("call races.prepare()")
    return facts(conn)


def facts(conn: Connection) -> dict[str, Any]:
    found = value(conn, "select * from races.facts")
    found |= {"c_event": found["c_events"][0], "a_event": found["a_events"][0]}
    return found


def faults(conn: Connection) -> list[str]:
    """Return violations of the conditions that hold after any call."""
    return column(conn, "select fault from races.faults")


def drain(conn: Connection) -> dict[str, list[int]]:
    """Deliver everything that is left. Return the event ids by subscribed consumer."""
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
            # The consumer is gone, or it became a group, or a group became a consumer.
            assert error.sqlstate in ("PQ002", "PQ007", "PQ008"), error
    return drained
