"""The SQL reference, made from the catalog of an installed schema and its comments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import psycopg

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Produce": ("send", "send_batch", "insert_event"),
    "Consume": (
        "subscribe",
        "unsubscribe",
        "receive",
        "ack",
        "ack_or_fail",
        "ack_part",
        "nack",
        "nack_many",
        "seek",
    ),
    "Consume window by window": (
        "register_consumer",
        "register_consumer_at",
        "unregister_consumer",
        "next_batch",
        "next_batch_info",
        "next_batch_custom",
        "get_batch_events",
        "get_batch_cursor",
        "finish_batch",
        "event_retry",
        "batch_retry",
        "event_dead",
    ),
    "Cooperative groups": (
        "subscribe_subconsumer",
        "unsubscribe_subconsumer",
        "register_subconsumer",
        "unregister_subconsumer",
        "receive_coop",
        "touch_subconsumer",
    ),
    "Queues": ("create_queue", "drop_queue", "set_queue_config"),
    "Ticks and maintenance": (
        "ticker",
        "force_next_tick",
        "force_tick",
        "maint",
        "maint_retry_events",
        "maint_rotate_tables_step1",
        "maint_rotate_tables_step2",
        "maint_rotate_ledger",
    ),
    "With pg_cron": ("start", "stop", "ticker_loop", "set_tick_period_ms"),
    "Grants for one queue": ("grant_queue", "revoke_queue", "queue_grants"),
    "Dead letters": ("dlq_inspect", "dlq_replay", "dlq_replay_all", "dlq_purge"),
    "Information": (
        "status",
        "version",
        "get_queue_info",
        "get_consumer_info",
        "get_queue_wait",
        "get_consumer_wait",
        "get_batch_info",
    ),
    "Change capture": ("jsontriga", "logutriga", "sqltriga"),
    "Functions for the Python client": (
        "receive_merged",
        "receive_coop_merged",
        "ticker_may_sleep",
        "ticks_are_late",
    ),
    "Uninstall": ("uninstall",),
}
RELATIONS: Final = (
    "queue", "consumer", "subscription", "tick", "retry_queue", "dead_letter", "config", "message",
)  # fmt: skip
ROLES: Final = ("pgque_writer", "pgque_reader", "pgque_user", "pgque_admin")

SQL_HEAD: Final = """\
# Reference: SQL

<!-- Made by docs/make_reference.py from the comments in sql/. -->

All functions are in the schema `pgque`. Each entry names the roles that may call the function.
`pgque_admin` is a member of `pgque_writer` and `pgque_reader`. Members of `pgque_user` also need a
grant for the queue (see `grant_queue`). Functions that return 1 or 0 tell whether they changed
anything. You can pass arguments by name (`queue_name := 'orders'`).

An untyped literal selects the variant with `text`, which is stored byte for byte. `jsonb` is stored
as its canonical text. An empty array of payloads returns `{}`. A NULL array is an error. NULL
elements are stored as NULL.

Errors have a SQLSTATE of class `PQ`, or 22023 for a bad argument. The
[operations guide](operations.md#errors) lists them all. Names that begin with `_` are internal.
"""

_FUNCTIONS: Final = """
select p.proname, p.prokind = 'p', p.prorettype = 'trigger'::regtype,
       pg_get_function_arguments(p.oid), coalesce(pg_get_function_result(p.oid), ''),
       obj_description(p.oid, 'pg_proc'),
       array(select r from unnest(%s::text[]) with ordinality as t (r, n)
              where has_function_privilege(r, p.oid, 'execute') order by n)
  from pg_proc p
 where p.pronamespace = 'pgque'::regnamespace
   and p.proname not like '\\_%%'
 order by p.proname, p.pronargs, pg_get_function_arguments(p.oid)
"""
_COLUMNS: Final = """
select a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid),
       col_description(c.oid, a.attnum)
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
 where c.oid = %s::regclass
 order by a.attnum
"""

_CODE: Final = re.compile(
    r"(?<![\w.])(?:pgque\.\w+(?:\([^)]*\))?"  # pgque.queue, pgque.ack(batch_id)
    r"|[a-z]+(?:_[a-z0-9]+)+(?:\([^)]*\))?"  # ev_id, force_next_tick, dlq_replay(1)
    r"|PQ\d{3}|22023|55P03"
    r"|<\w+>(?:\.<\w+>)?)"
)
"""Finds SQL names in a comment."""


class Routine(NamedTuple):
    """A function or procedure, from the catalog."""

    name: str
    is_procedure: bool
    is_trigger: bool
    arguments: str
    result: str
    comment: str
    roles: list[str]


def sql_reference(conn: psycopg.Connection[Any]) -> str:
    """Return reference-sql.md for the schema in a database."""
    found: dict[str, list[Routine]] = {}
    with conn.transaction():
        conn.execute("set local search_path = pg_catalog")
        for row in conn.execute(_FUNCTIONS, [list(ROLES)]):
            found.setdefault(row[0], []).append(Routine(*row))
        missing = found.keys() ^ {name for names in GROUPS.values() for name in names}
        if missing:
            raise LookupError(f"GROUPS and the schema differ: {', '.join(sorted(missing))}")
        parts = [SQL_HEAD]
        for group, names in GROUPS.items():
            parts.append(f"\n## {group}\n")
            for name in names:
                parts.append(f"\n### {name}\n")
                seen: set[str] = set()
                parts += [_routine(variant, seen) for variant in found[name]]
        parts.append("\n## Tables that users read\n")
        parts.append("\nRead them with `pgque_reader`. Only pgque writes them.\n")
        parts += [_relation(conn, name) for name in RELATIONS]
    return "".join(parts)


def _routine(routine: Routine, seen: set[str]) -> str:
    """Describe one variant. `seen` has the columns of earlier variants."""
    arguments = _split(routine.arguments)
    takes = [a for a in arguments if not a.startswith(("OUT ", "TABLE "))]
    gives = [a.removeprefix("OUT ") for a in arguments if a.startswith("OUT ")]
    call = f"pgque.{routine.name}({_types(', '.join(takes))})"
    if routine.is_procedure:
        call = f"call {call}"
    elif routine.result.startswith("TABLE("):
        gives = _split(routine.result[len("TABLE(") : -1])
        call += " returns rows"
    elif gives:
        call += " returns rows" if routine.result.startswith("SETOF") else " returns a row"
    elif not routine.is_trigger:
        call += f" returns {_types(routine.result.replace('SETOF', 'setof'))}"
    columns = _types(", ".join(gives))
    words = f" Columns: `{columns}`." if columns and columns not in seen else ""
    seen.add(columns)
    own = [role for role in routine.roles if role != "pgque_admin"] or routine.roles
    who = " or ".join(f"`{role}`" for role in own) or "the owner"
    return f"\n`{call}`\n\n{_prose(routine.comment)}{words} Role: {who}.\n"


def _relation(conn: psycopg.Connection[Any], name: str) -> str:
    kind, comment = conn.execute(
        "select relkind::text, coalesce(obj_description(oid, 'pg_class'), "
        "obj_description(reltype, 'pg_type')) from pg_class where oid = %s::regclass",
        [f"pgque.{name}"],
    ).fetchone() or ("", "")
    title = "type message" if kind == "c" else name
    rows = []
    for column, type_name, default, words in conn.execute(_COLUMNS, [f"pgque.{name}"]):
        default = "" if default is None else f"`{_types(default)}`"
        rows.append(f"| `{column}` | {_types(type_name)} | {default} | {_prose(words or '')} |")
    head = "| Column | Type | Default | |\n|---|---|---|---|\n"
    return f"\n### {title}\n\n{_prose(comment)}\n\n{head}" + "\n".join(rows) + "\n"


def _split(arguments: str) -> list[str]:
    """Split a list of arguments at commas outside quotes and brackets."""
    return [a.strip() for a in re.findall(r"(?:'[^']*'|\([^)]*\)|[^,'(])+", arguments)]


def _types(text: str) -> str:
    for long, short in (
        ("timestamp with time zone", "timestamptz"),
        ("DEFAULT NULL::interval", "default null"),
        ("DEFAULT NULL::text", "default null"),
        ("DEFAULT ", "default "),
        ("::interval", ""),
        ("::bigint", ""),
        ("::xid8[]", ""),
    ):
        text = text.replace(long, short)
    return text


def _prose(comment: str) -> str:
    """Mark names and codes in a comment, and keep indented blocks as they are."""
    return "\n\n".join(_paragraph(part) for part in _layout(comment))


def _layout(comment: str) -> list[str]:
    """Cut a comment into paragraphs and blocks of indented lines."""
    parts: list[str] = []
    for line in comment.split("\n"):
        indented = line.startswith("  ")
        if parts and indented == parts[-1].startswith("  "):
            parts[-1] += f"\n{line}" if indented else f" {line}"
        else:
            parts.append(line)
    return parts


def _paragraph(text: str) -> str:
    if text.startswith("  "):
        return f"```text\n{textwrap.dedent(text)}\n```"
    return _CODE.sub(lambda found: f"`{found[0]}`", text)
