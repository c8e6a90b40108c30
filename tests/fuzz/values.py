"""Bad input by type of argument: nonsense, injections and edge cases."""

import json
from typing import Any

from hypothesis import strategies as st

INJECTIONS = [
    "'",
    "''; drop table pgque.queue; --",
    '"; select pg_sleep(9); --',
    "q' or '1'='1",
    "$$; drop schema pgque cascade; $$",
    "\\'; select 1/0; --",
    "%s %I %L %1$s",
    "{}",
    '{x,"y"}',
    "(1,2)",
    "queue_name",
    "pg_temp.q",
]
ODD_TEXTS = [
    "",
    " ",
    "\t\n\r",
    "e\u0301\u0327",  # combining
    "\U0001f9d1\u200d\U0001f680",
    "\u202eq",
    "\ufeffq",
    "\U0010ffff",
    "Q",
    "q.q",
    "g.a",
    "\\",
    "\\'",
    "a\\nb\\\\",
    "\\x00",
    "é" * 57,
    "x" * 57,
    "x" * 58,
    "x" * 63,
    "x" * 64,
    "null",
    "NaN",
    "infinity",
    "-infinity",
    "1e400",
    "0",
    "-1",
    "99999999999999999999",
]


class Huge(str):
    """A long text with a short repr."""

    def __repr__(self) -> str:
        return f"Huge({self[0]!r} * {len(self)})"


HUGE = Huge("\u20ac" * 400_000)

# Text that PostgreSQL accepts: no NUL and no lone surrogate.
any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=80)
texts = st.one_of(st.sampled_from(ODD_TEXTS), st.sampled_from(INJECTIONS), any_text, st.just(HUGE))
edges = [0, 1, -1, 2, 2**15, 2**31 - 1, -(2**31)]
ints = st.one_of(st.sampled_from(edges), st.integers(-(2**31), 2**31 - 1))
bigints = st.one_of(
    st.sampled_from([*edges, 2**31, 2**53, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1)
)
intervals = [
    "0",
    "1 microsecond",
    "-1 microsecond",
    "60 seconds",
    "1 month -30 days",
    "-178000000 years",
    "178000000 years",
    "292000 years",
    "2147483647 days",
    "-2147483648 days",
    "9223372036854 seconds",
]
endless_intervals = ["infinity", "-infinity"]
times = [
    "now",
    "epoch",
    "infinity",
    "-infinity",
    "4714-11-24 00:00:00+00 BC",
    "294276-12-31 23:59:59.999999+00",
    "2000-02-29 12:00+14",
]
jsons = [
    "null",
    "{}",
    "[]",
    '"' + "\U0001f9d1" * 100 + '"',
    "1e1000",
    "-0.0",
    '{"a": 1, "a": 2}',
    json.dumps({"'; drop": ["\\u0001", None]}),
    "[" * 500 + "]" * 500,
    '{"a":' * 1000 + "1" + "}" * 1000,
    '{"a": "\\\\n\\\\\'"}',
]


def arrays(element: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw arrays: empty, long, multidimensional, with NULLs or with another lower bound."""
    item = st.one_of(st.none(), element)
    return st.one_of(
        st.sampled_from(["{}", "{NULL}", "{{1,2},{3,NULL}}", "[5:6]={1,2}", "{{{1}}}"]),
        st.lists(item, max_size=5),
        st.lists(item, min_size=1, max_size=1).map(lambda one: one * 3000),
    )


def composite(ids: list[int]) -> st.SearchStrategy[str]:
    """Draw a pgque.message as text. nack uses only its first field."""
    other = st.sampled_from(["", "1", '"a""b,c"'])
    return st.tuples(st.sampled_from(["", *map(str, ids), "-1", str(2**63 - 1)]), other).map(
        lambda two: f"({two[0]},,{two[1]},,,,,,,)"
    )


def by_type(live: dict[str, list[Any]], endless: bool) -> dict[str, st.SearchStrategy[Any]]:
    """Return values of each type, or NULL. `live` holds the valid values by type."""

    def or_live(name: str, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        known = live.get(name)
        return st.one_of(*([st.sampled_from(known)] * 3 if known else []), st.none(), strategy)

    small = texts.filter(lambda text: len(text) < 100)
    json_arrays = st.one_of(
        st.none(),
        st.sampled_from(["{}", "{NULL}", "{{1,2},{3,4}}"]),
        st.lists(st.one_of(st.none(), st.sampled_from(jsons)), max_size=4),
    )
    spans = intervals + (endless_intervals if endless else [])
    return {
        "text": or_live("text", texts),
        "jsonb": st.one_of(st.none(), st.sampled_from(jsons)),
        "json": st.one_of(st.none(), st.sampled_from(jsons)),
        "integer": or_live("integer", ints),
        "bigint": or_live("bigint", bigints),
        "boolean": st.sampled_from([None, True, False]),
        "interval": or_live("interval", st.sampled_from(spans)),
        "timestamp with time zone": or_live("timestamp with time zone", st.sampled_from(times)),
        "xid8": st.sampled_from([None, "0", "3", str(2**64 - 1)]),
        "text[]": st.one_of(st.none(), arrays(small)),
        "json[]": json_arrays,
        "jsonb[]": json_arrays,
        "bigint[]": or_live("bigint[]", arrays(bigints)),
        "pgque.message": st.one_of(st.none(), composite(live["bigint"])),
    }
