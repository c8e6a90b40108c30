"""Every SQL function with bad input: it succeeds, or fails with a named error and no change."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgque import PgqueClient
from tests.fix_engine import LONG, Connection, value
from tests.fuzz.values import by_type
from tests.races import situation
from tests.races.calls import CALLS, NOT_CALLED
from tests.recording import record

EXAMPLES = 150 if LONG else 20
DIGEST = (Path(__file__).parent / "fuzz.sql").read_text()

TRIGGERS = {"jsontriga()", "logutriga()", "sqltriga()"}
"""PostgreSQL refuses direct calls; tests/test_capture.py covers their arguments."""

ALLOWED = {
    "22023": "a bad argument, as the contract says",
    "55P03": "receive_merged does not wait; allowed although no other session holds a lock here",
}
"""SQLSTATEs outside class PQ that may be raised, with the reason."""

SETTINGS = [
    "ticker_max_count",
    "ticker_max_lag",
    "ticker_idle_period",
    "ticker_paused",
    "rotation_period",
    "external_ticker",
    "max_retries",
]

MORE = {"set_queue_config(text,text,text)": 8}
"""Functions that get more examples, because several arguments must fit together."""

SQL_OF_THE_CALLER = {
    "get_batch_cursor(bigint,text,integer)": {"42": "a cursor of that name is open"},
    "get_batch_cursor(bigint,text,integer,text)": {
        "42": "extra_where is the admin's SQL: an unknown name, or not a condition",
        "22": "extra_where is the admin's SQL: an invalid value",
    },
}
"""Further classes of SQLSTATE for the one function that takes SQL."""

ARGUMENTS = """
    select format_type(t, null), p.proargnames[n]
    from pg_proc p, unnest(p.proargtypes) with ordinality as a (t, n)
    where p.oid = ('pgque.' || replace(%s, 'withtimezone', ' with time zone'))::regprocedure
    order by n
"""


@pytest.fixture(scope="module")
def world(shared: Connection) -> dict[str, Any]:
    """Set up the situation of tests/races. Return its valid values, by name and type."""
    shared.execute(situation.SCHEMA)
    shared.execute(DIGEST)
    facts = situation.prepare(shared)
    return {
        "names": {
            "queue": ["q", "q", "q", "x"],
            "queue_name": ["q", "q", "q", "x"],
            "consumer": ["c", "i", "g"],
            "subconsumer": ["a", "b"],
            "param": SETTINGS,
            "value": ["infinity", "-infinity", "1 hour", "0", "5", "true", None],
            "batch_id": [facts["c_batch"], facts["a_batch"]],
            "event_id": [*facts["c_events"], *facts["a_events"]],
        },
        "text": ["q", "x", "c", "i", "g", "a", "b", "max_retries", "rotation_period"],
        "bigint": [
            facts["c_batch"],
            facts["a_batch"],
            facts["dead"],
            facts["tick"],
            *facts["c_events"],
            *facts["a_events"],
        ],
        "bigint[]": [facts["c_events"], facts["c_events"] * 2],
        "integer": [0, 1, 5],
        "interval": ["0", "1 hour"],
    }


def mostly(
    world: dict[str, Any], name: str, strategy: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    """Draw a valid value nine times out of ten, or no call would get past the queue's name."""
    there = world["names"].get(name)
    if there is None:
        return strategy
    return st.integers(0, 9).flatmap(lambda n: strategy if n == 0 else st.sampled_from(there))


def attempt(
    conn: Connection,
    signature: str,
    types: list[str],
    arguments: tuple[Any, ...],
    escapes: bool = False,
) -> str:
    """Call a function and roll back. Return the SQLSTATE, or an empty string.

    `escapes` turns standard_conforming_strings off, so that backslashes in plain literals escape.
    """
    casts = ", ".join(f"%s::{name}" for name in types)
    query = f"select * from pgque.{signature.partition('(')[0]}({casts})"
    conn.execute("begin")
    if escapes:
        conn.execute("set local standard_conforming_strings = off")
        conn.execute("set local escape_string_warning = off")
    try:
        conn.execute(query.encode(), arguments or None)
        assert situation.faults(conn) == []
        read_back(conn)
        return ""
    except psycopg.Error as error:
        state = error.sqlstate
        assert state is not None, f"{error!r}: the connection broke"
        own = SQL_OF_THE_CALLER.get(signature, {})
        assert state.startswith(("PQ", *own)) or state in ALLOWED, f"{state}: {error}"
        return state
    finally:
        conn.execute("rollback")


def read_back(conn: Connection) -> None:
    """Check that the client can still read all queues and consumers."""
    client = PgqueClient(conn)
    client.queue_info()  # raises if a value cannot be read
    client.consumer_info()


@pytest.mark.parametrize("signature", sorted(CALLS.keys() - NOT_CALLED.keys() - TRIGGERS))
def test_p10_a_function_succeeds_or_fails_with_a_named_error(shared, world, signature):
    began = time.monotonic()
    parameters = shared.execute(ARGUMENTS, [signature]).fetchall()
    types = [name for name, _ in parameters]
    strategies = by_type(world, endless=shared.info.server_version >= 170000)
    outcomes: Counter[str] = Counter()
    before = value(shared, "select races.digest()")

    @settings(
        max_examples=EXAMPLES * MORE.get(signature, 1) if types else 1,
        database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.tuples(*(mostly(world, name, strategies[kind]) for kind, name in parameters)),
        st.integers(0, 4),
    )
    def call(arguments: tuple[Any, ...], one_in_five: int) -> None:
        state = attempt(shared, signature, types, arguments, escapes=one_in_five == 4)
        outcomes[state or "success"] += 1
        if state:
            assert value(shared, "select races.digest()") == before, (
                "a failed call changed something"
            )

    call()
    assert value(shared, "select races.digest()") == before
    assert (
        value(
            shared,
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        )
        == 0
    )
    record(
        shared,
        "fuzz",
        "SQL functions",
        "tests/fuzz/test_sql.py",
        {
            "functions": 1,
            "calls": outcomes.total(),
            "outcomes": dict(outcomes),
            "seconds": time.monotonic() - began,
        },
    )
