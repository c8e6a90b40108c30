"""Roles for a single test, and the record of the checks."""

import contextlib
import fcntl
import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.fix_engine import value
from tests.samples import ROOT

Connection = psycopg.Connection[Any]
NewRole = Callable[..., str]
ActAs = Callable[[str], Connection]

RECORD = ROOT / "docs" / "reliability" / "security.json"

_numbers = itertools.count(1)


def record(section: str, conn: Connection, **figures: Any) -> None:
    """Write the figures of a test to docs/reliability/security.json, with PGQUE_RECORD=1.

    Call this last in a test, so that only passed checks are recorded.
    """
    if os.environ.get("PGQUE_RECORD") != "1":
        return
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    with RECORD.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        found = json.loads(file.read() or "{}")
        version = str(conn.info.server_version // 10_000)
        found.setdefault(f"PostgreSQL {version}", {})[section] = figures
        file.seek(0)
        file.truncate()
        file.write(json.dumps(found, indent=2, sort_keys=True) + "\n")


@pytest.fixture
def new_role(autoconn: Connection) -> Iterator[NewRole]:
    """Create roles that may log in. The fixture drops them, with their objects and grants."""
    made: list[str] = []

    def new_role(*member_of: str, name: str = "role") -> str:
        role = f"{name}_{os.getpid()}_{secrets.token_hex(3)}_{next(_numbers)}"
        autoconn.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
        made.append(role)
        for group in member_of:
            autoconn.execute(
                sql.SQL("grant {} to {}").format(sql.Identifier(group), sql.Identifier(role))
            )
        return role

    yield new_role
    autoconn.execute("reset role")
    for role in reversed(made):
        name = sql.Identifier(role)
        with contextlib.suppress(psycopg.errors.UndefinedObject):
            autoconn.execute(sql.SQL("drop owned by {} cascade").format(name))
            autoconn.execute(sql.SQL("drop role {}").format(name))


@pytest.fixture
def log_in(dsn: str) -> Iterator[ActAs]:
    """Connect as a role, in autocommit mode."""
    opened: list[Connection] = []

    def log_in(role: str) -> Connection:
        conn = psycopg.connect(make_conninfo(dsn, user=role), autocommit=True)
        opened.append(conn)
        return conn

    yield log_in
    for conn in opened:
        conn.close()


def grant(conn: Connection, role: str, queue: str, *privileges: str) -> None:
    for privilege in privileges:
        assert value(conn, "select pgque.grant_queue(%s, %s, %s)", role, queue, privilege) == 1


def revoke(conn: Connection, role: str, queue: str, privilege: str) -> int:
    return value(conn, "select pgque.revoke_queue(%s, %s, %s)", role, queue, privilege)


@pytest.fixture
def app(autoconn: Connection, queue: str, new_role: NewRole, log_in: ActAs) -> Connection:
    """Return a connection of a role that may produce to `queue` and consume from it."""
    role = new_role(name="app")
    grant(autoconn, role, queue, "produce", "consume")
    return log_in(role)


def user(conn: Connection) -> str:
    return conn.info.user
