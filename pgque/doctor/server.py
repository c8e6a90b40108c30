"""Checks of the server, the connection, the schema and the user's rights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

from psycopg import sql

from pgque.doctor.finding import Examination, Finding, fault, ok, warning
from pgque.install import OLDEST_SERVER, SCHEMA_VERSION
from pgque.watching.readable import duration

NOTIFY_PATIENCE = 3.0
"""Seconds to wait for a notification."""
OLD = timedelta(minutes=15)
ROLES = ("pgque_admin", "pgque_writer", "pgque_reader")
GRANTS = {
    "produce": r"^_event_\d+_produce$",
    "consume": r"^_event_\d+_consume$",
}
"""By grant, a pattern of the functions that it allows (see sql/queue_grants)."""


def server(x: Examination) -> Iterator[Finding]:
    """Yield the server's version."""
    version = x.conn.info.server_version
    text = x.value("show server_version")
    if version // 10000 < OLDEST_SERVER:
        yield fault(
            "server",
            f"PostgreSQL {text} is too old",
            f"upgrade to {OLDEST_SERVER} or later",
            ends_all=True,
        )
    elif x.value("select pg_is_in_recovery()"):
        yield fault(
            "server",
            f"PostgreSQL {text} is a standby: it accepts no events",
            "connect to the primary: target_session_attrs=read-write",
        )
    elif x.value("show transaction_read_only") == "on":
        yield fault(
            "server",
            f"PostgreSQL {text} is read-only by default",
            "alter database … reset default_transaction_read_only",
        )
    else:
        yield ok("server", f"PostgreSQL {text}")


def settings(x: Examination) -> Iterator[Finding]:
    """Yield settings that lose committed data in a crash, or that slow down pgque."""
    found = {name: x.value(f"show {name}") for name in ("fsync", "full_page_writes")}
    off = [name for name, value in found.items() if value == "off"]
    if off:
        yield fault(
            "settings",
            f"{' and '.join(off)} off: a crash of the machine destroys the database",
            f"alter system reset {off[0]}",
        )
    if x.value("show synchronous_commit") == "off":
        yield warning(
            "settings",
            "synchronous_commit is off: a crash loses the most recent events",
            "alter system reset synchronous_commit",
        )
    prepared = int(x.value("show max_prepared_transactions"))
    if prepared:
        yield warning(
            "settings",
            f"max_prepared_transactions is {prepared}: sends cannot wake a sleeping ticker, "
            "which polls once a second instead",
            "alter system set max_prepared_transactions = 0, if no application prepares any",
        )
    elif not off:
        yield ok("settings", "durable")


def pooler(x: Examination) -> Iterator[Finding]:
    """Yield whether the connection passes through a pooler."""
    if x.pooled:
        yield warning(
            "pooler",
            "a pooler in transaction mode: consumers poll instead of waiting for notifications",
            "connect consumers and tickers directly to the server",
        )
    else:
        yield ok("pooler", "none")


def schema(x: Examination) -> Iterator[Finding]:
    """Yield the schema's version, compared with the client's."""
    if not x.value("select exists (select from pg_namespace where nspname = 'pgque')"):
        yield fault("schema", "pgque is not installed here", "pgque install", ends_all=True)
        return
    if not x.value("select has_schema_privilege('pgque', 'usage')"):
        yield fault(
            "schema",
            f"{x.conn.info.user} has no right to use it",
            _grant(x, "pgque_reader"),
            ends_all=True,
        )
        return
    version = x.value("select (select schema_version from pgque.config)")
    if version is None:
        yield fault("schema", "it was restored without its data", "pgque install", ends_all=True)
    elif version < SCHEMA_VERSION:
        yield fault(
            "schema",
            f"version {version}, older than this client's {SCHEMA_VERSION}",
            "pgque upgrade",
        )
    elif version > SCHEMA_VERSION:
        yield fault(
            "schema",
            f"version {version}, newer than this client's {SCHEMA_VERSION}",
            "pip install --upgrade pgque",
        )
    else:
        yield ok("schema", f"version {version}")


def rights(x: Examination) -> Iterator[Finding]:
    """Yield the roles and grants of the user."""
    user = x.conn.info.user
    held = [role for role in ROLES if x.value("select pg_has_role(%s, 'member')", (role,))]
    if held:
        yield ok("rights", f"{user} is a member of {', '.join(held)}")
    elif not x.observes:
        yield warning(
            "rights", f"{user} is not a member of a pgque role", _grant(x, "pgque_reader")
        )
    elif queues := [name for (name,) in x.rows("select queue_name from pgque.get_queue_info()")]:
        held = [name for name, functions in GRANTS.items() if _may_execute_any(x, functions)]
        rights = " and ".join(held)
        yield ok("rights", f"{user} has grants to {rights} for {', '.join(queues)} only")
    else:
        name = sql.Literal(user).as_string(x.conn)
        yield warning(
            "rights",
            f"{user} is a member of pgque_user, but has no grant for a queue",
            f"select pgque.grant_queue({name}, 'QUEUE', 'consume')",
        )


def _may_execute_any(x: Examination, functions: str) -> bool:
    return bool(
        x.value(
            "select exists (select from pg_proc p where p.pronamespace = 'pgque'::regnamespace "
            "and p.proname ~ %s and has_function_privilege(p.oid, 'execute'))",
            (functions,),
        )
    )


def _grant(x: Examination, role: str) -> str:
    user = sql.Identifier(x.conn.info.user).as_string(x.conn)
    return f"grant {role} to {user}"


def row_security(x: Examination) -> Iterator[Finding]:
    """Yield tables whose rows row security hides."""
    tables = [
        name
        for (name,) in x.rows(
            "select 'pgque.' || quote_ident(relname) from pg_class "
            "where relnamespace = 'pgque'::regnamespace and relkind = 'r' and relrowsecurity "
            "order by oid"
        )
    ]
    if tables:
        more = f" and {len(tables) - 3} more" if len(tables) > 3 else ""
        yield fault(
            "row security",
            f"enabled for {', '.join(tables[:3])}{more}: calls that read them fail",
            "; ".join(
                f"alter table {name} disable row level security, no force row level security"
                for name in tables
            ),
        )
    else:
        yield ok("row security", "disabled for all tables of pgque")


def notifications(x: Examination) -> Iterator[Finding]:
    """Yield whether a NOTIFY is delivered."""
    if x.pooled:
        return
    channel = f"pgque_doctor_{x.conn.info.backend_pid}"
    x.conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
    try:
        began = time.monotonic()
        _notify(x, channel)
        for _ in x.conn.notifies(timeout=NOTIFY_PATIENCE, stop_after=1):
            yield ok("notify", f"received after {duration(time.monotonic() - began)}")
            return
    finally:
        x.conn.execute("unlisten *")
    used = x.value("select pg_notification_queue_usage()")
    yield fault(
        "notify",
        f"not received within {NOTIFY_PATIENCE:g} s; the notification queue is {used:.0%} full",
        "end the session that listens but does not read: see pg_stat_activity",
    )


def _notify(x: Examination, channel: str) -> None:
    x.conn.execute("select pg_notify(%s, '')", (channel,))


def old_transactions(x: Examination) -> Iterator[Finding]:
    """Yield old transactions: they block the rotation of logs and the vacuum of the catalog."""
    found = False
    for pid, user, age in x.rows(
        "select pid, coalesce(usename, backend_type), clock_timestamp() - xact_start "
        "from pg_stat_activity where xact_start < clock_timestamp() - %s "
        "and datname = current_database() "
        "order by xact_start limit 3",
        (OLD,),
    ):
        found = True
        yield warning(
            "transactions",
            f"a transaction of {user} has been open for {duration(age)}",
            f"select pg_terminate_backend({pid})",
        )
    for gid, age in x.rows(
        "select gid, clock_timestamp() - prepared from pg_prepared_xacts "
        "where prepared < clock_timestamp() - %s and database = current_database() "
        "order by prepared limit 3",
        (OLD,),
    ):
        found = True
        literal = sql.Literal(gid).as_string(x.conn)
        yield warning(
            "transactions",
            f"{gid} has been prepared for {duration(age)}",
            f"commit prepared {literal}, or rollback prepared {literal}",
        )
    if not found:
        others = (
            ""
            if x.value("select pg_has_role('pg_read_all_stats', 'usage')")
            else f" of those of {x.conn.info.user}; grant it pg_read_all_stats to see all"
        )
        yield ok("transactions", f"none older than {duration(OLD)}{others}")
