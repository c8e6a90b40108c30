"""Calls that stop inside a function, before a statement of its body, until they are released.

In the test's database, every function of the engine gets a stop before each of its statements. A
session chooses the stop at which it waits, for a lock that the observer holds. Another session can
act in the meantime, as if the first one were slow.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.fix_engine import Connection
from tests.races import situation

SCHEMA = (Path(__file__).parent / "stopping.sql").read_text()

HOLD = "select pg_advisory_lock(1885827400, 0)"
RELEASE = "select pg_advisory_unlock(1885827400, 0)"

TOKEN = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\"[^\"]*\"|[A-Za-z_][\w$]*|\s+|.", re.DOTALL)
OPENS = {"begin", "then", "else", "loop"}
NO_STATEMENT = {"begin", "declare", "end", "exception", "elsif", "else", "when"}


def with_stops(name: str, body: str) -> str:
    """Return the body of a PL/pgSQL function with a stop before each statement."""
    return "".join(_tokens_and_stops(name, body))


def _tokens_and_stops(name: str, body: str) -> Iterator[str]:
    declaring = True
    cases = line = 0
    starts = False
    before = ""
    for token in TOKEN.findall(body):
        line += token.count("\n")
        word = token.lower()
        if token.isspace() or token.startswith("--"):
            yield token
            continue
        if starts and word not in NO_STATEMENT:
            # "if" instead of "perform", because "perform" would set FOUND.
            yield f"if races.stop('{name}:{line}') then end if; "
        declaring = word == "declare" or (declaring and word != "begin")
        cases += (word == "case") - (word == "end" and cases > 0)
        opens = word in OPENS and not cases and before != "end"
        starts = not declaring and (opens or token == ";")
        before = word
        yield token


def insert_stops(conn: Connection) -> None:
    """Insert stops into every function of the engine, and prepare the situation."""
    conn.execute(situation.SCHEMA)
    conn.execute(SCHEMA)
    situation.prepare(conn)
    for name, body, definition in conn.execute(
        "select p.proname, p.prosrc, pg_get_functiondef(p.oid) from pg_proc p "
        "join pg_language l on l.oid = p.prolang "
        "where p.pronamespace = 'pgque'::regnamespace and l.lanname = 'plpgsql' "
        "and p.provolatile <> 'i' and p.proname !~ '^(_capture|_check|json|logu|sqltri)'"
    ).fetchall():
        assert definition.count(body) == 1, name
        conn.execute(definition.replace(body, with_stops(name, body)))


def stop_at(conn: Connection, number: int | None) -> None:
    """Make the session wait at the stop with this number. With None it only reports its stops."""
    conn.execute("create temp sequence if not exists passed")
    conn.execute("select setval('passed', 1, false)")
    conn.execute(f"set races.stop_at = '{number or 'none'}'".encode())


def go_on(conn: Connection) -> None:
    conn.execute("reset races.stop_at")
