"""Every method of the client with bad input returns or raises a PgqueError.

The connection survives.
"""

import inspect
import math
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pgque
from pgque import Event, Message, PgqueClient, PgqueError
from tests.fix_engine import LONG, Connection, value
from tests.fuzz.test_sql import ALLOWED, DIGEST, mostly
from tests.fuzz.values import HUGE, INJECTIONS, ODD_TEXTS
from tests.races import situation
from tests.recording import record

EXAMPLES = 100 if LONG else 15

NOT_CALLED = {"close": "it closes the connection"}

BY_CLIENT = {
    None: "rejected before anything was sent",
    "22003": "a number out of range of its type",
    "22P02": "a value of another type, which psycopg sends as no valid number or time",
    "42846": "a value of another type without a cast to the required one",
    "22021": "a character that PostgreSQL cannot store",
}
"""Further SQLSTATEs that the client may raise, with the reason."""

live = {
    "queue": ["q", "q", "q", "x"],
    "consumer": ["c", "i", "g"],
    "subconsumer": ["a", "b"],
}
live_texts = st.sampled_from(["q", "x", "c", "i", "g", "a", "b"])
texts = st.one_of(
    live_texts,
    live_texts,
    st.sampled_from([*ODD_TEXTS, *INJECTIONS, "\0", "a\0b", "\ud800", HUGE]),
    st.text(max_size=60),
)
odd = st.sampled_from([None, True, math.nan, math.inf, b"bytes", [], {}, (), 1j, object()])
numbers = st.one_of(
    st.integers(0, 12),
    st.sampled_from([0, -1, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400]),
    st.integers(),
)
spans = st.one_of(
    st.timedeltas(),
    st.floats(),
    st.sampled_from([0, -1, 1e300, timedelta.max, timedelta.min, timedelta(0)]),
)
moments = st.one_of(
    numbers,
    st.datetimes(timezones=st.sampled_from([None, timezone.utc])),
    st.sampled_from([datetime.max, datetime.min, datetime.max.replace(tzinfo=timezone.utc)]),
)
payloads = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), numbers, texts, odd),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def nested(depth: int) -> list[Any]:
    result: list[Any] = []
    for _ in range(depth):
        result = [result]
    return result


payloads = st.one_of(
    payloads,
    st.sampled_from([nested(100_000), nested(400)]),
    st.builds(Event, payloads, type=texts),
)


def messages(ids: list[int]) -> st.SearchStrategy[Message]:
    now = datetime.now(timezone.utc)
    return st.one_of(st.sampled_from(ids), numbers).map(
        lambda number: Message(number, 1, "t", "{}", 0, now, None, None, None, None)
    )


def by_parameter(ids: list[int]) -> dict[str, st.SearchStrategy[Any]]:
    """Return values for each parameter of the client's methods, by name."""
    numbers_here = st.one_of(st.sampled_from(ids), numbers)
    text_names = ["queue", "consumer", "subconsumer", "type", "param", "reason", "key"]
    return {
        **dict.fromkeys(text_names, texts),
        "options": st.one_of(st.none(), st.dictionaries(texts, odd, max_size=2), odd),
        "payload": payloads,
        "payloads": st.one_of(st.lists(payloads, max_size=4), odd, texts),
        "headers": st.one_of(st.none(), st.dictionaries(texts, payloads, max_size=3), odd),
        "to": moments,
        "max_messages": numbers,
        "limit": numbers,
        "merged": st.booleans(),
        "force": st.booleans(),
        "convert_normal": st.booleans(),
        "batch_id": numbers_here,
        "dead_letter_id": numbers_here,
        "batch_handling": numbers,
        "msg": messages(ids),
        "messages": st.lists(messages(ids), max_size=4),
        "retry_after": spans,
        "older_than": spans,
        "dead_interval": st.one_of(st.none(), spans),
        "reasons": st.one_of(st.none(), st.lists(st.one_of(st.none(), texts), max_size=4)),
        "value": st.one_of(st.none(), st.booleans(), numbers, spans, texts),
    }


def methods() -> dict[str, inspect.Signature]:
    """Return the public methods of the client."""
    return {
        name: inspect.signature(function)
        for name, function in inspect.getmembers(PgqueClient, inspect.isfunction)
        if not name.startswith("_")
    }


def arguments_of(
    signature: inspect.Signature, known: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """Return arguments by name. Optional ones may be missing, and any may have a wrong type.

    Messages and reasons keep their type, because Python itself raises an error for wrong ones.
    """
    required, optional = {}, {}
    for name, parameter in signature.parameters.items():
        if name == "self":
            continue
        part = mostly({"names": live}, name, known[name]) if name in live else known[name]
        part = (
            part if name in ("msg", "messages", "reasons", *live) else st.one_of(*[part] * 6, odd)
        )
        (required if parameter.default is parameter.empty else optional)[name] = part
    return st.fixed_dictionaries(required, optional=optional)


@pytest.fixture(scope="module")
def world(shared: Connection) -> dict[str, Any]:
    shared.execute(situation.SCHEMA)
    shared.execute(DIGEST)
    return situation.prepare(shared)


@pytest.fixture(scope="module")
def client(shared: Connection, world: dict[str, Any]) -> Iterator[PgqueClient]:
    with psycopg.connect(shared.info.dsn) as conn:
        yield PgqueClient(conn)


def attempt(client: PgqueClient, name: str, arguments: dict[str, Any]) -> str:
    """Call a method and roll back. Return the class of the error, or an empty string."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            getattr(client, name)(**arguments)
        return ""
    except PgqueError as error:
        state = error.sqlstate
        known = {**ALLOWED, **BY_CLIENT}
        assert state in known or str(state).startswith("PQ"), f"{state}: {error}"
        return type(error).__name__
    finally:
        client.conn.rollback()


@pytest.mark.parametrize("name", sorted(methods().keys() - NOT_CALLED.keys()))
def test_p10_a_method_returns_or_raises_a_pgque_error(shared, world, client, name):
    began = time.monotonic()
    ids = [world["c_batch"], world["a_batch"], world["dead"], world["tick"], *world["c_events"]]
    outcomes: Counter[str] = Counter()
    before = value(shared, "select races.digest()")
    strategy = arguments_of(methods()[name], by_parameter(ids))

    @settings(
        max_examples=EXAMPLES,
        database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def call(arguments: dict[str, Any]) -> None:
        kind = attempt(client, name, arguments)
        outcomes[kind or "success"] += 1
        assert client.conn.execute("select 1").fetchone() == (1,), "the connection broke"
        client.conn.rollback()
        if kind:
            assert value(shared, "select races.digest()") == before, (
                "a failed call changed something"
            )

    call()
    assert value(shared, "select races.digest()") == before
    record(
        shared,
        "fuzz",
        "client",
        "tests/fuzz/test_client.py",
        {
            "methods": 1,
            "calls": outcomes.total(),
            "outcomes": dict(outcomes),
            "seconds": time.monotonic() - began,
        },
    )


CONSUMER: dict[str, st.SearchStrategy[Any]] = {
    "queue": texts,
    "name": texts,
    "poll_interval": st.one_of(st.floats(), numbers, odd),
    "max_messages": st.one_of(numbers, odd),
    "retry_after": st.one_of(spans, odd),
    "unknown_handler_policy": st.one_of(st.sampled_from(["nack", "ack"]), texts, odd),
    "subconsumer": st.one_of(st.none(), texts),
    "dead_interval": st.one_of(st.none(), spans, odd),
}


def test_all_parameters_of_a_consumer_are_tried():
    assert inspect.signature(pgque.Consumer).parameters.keys() == {"dsn", *CONSUMER}


@settings(max_examples=EXAMPLES * 5, derandomize=not LONG, database=None)
@given(
    st.fixed_dictionaries(
        {name: CONSUMER[name] for name in ("queue", "name")},
        optional={name: part for name, part in CONSUMER.items() if name not in ("queue", "name")},
    )
)
def test_p10_a_consumer_is_created_or_names_the_invalid_argument(arguments):
    try:
        consumer = pgque.Consumer("host=/nowhere", **arguments)
    except pgque.PgqueInvalidArgument as error:
        assert any(name in str(error) for name in CONSUMER), error
        return
    assert 0 < consumer._poll_interval <= threading.TIMEOUT_MAX
    assert 1 <= consumer._max_messages < 2**31
