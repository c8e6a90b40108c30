"""Calls of every function of the schema, with arguments made from the names of its parameters."""

from typing import Any, NamedTuple

from psycopg import sql

from tests.fix_engine import Connection


class Routine(NamedTuple):
    """A function or procedure, with the types and names of its parameters."""

    name: str
    kind: str
    is_definer: bool
    types: list[str]
    qualified: list[str]
    names: list[str]

    def call(self) -> sql.Composed:
        """Return a statement that calls it, with a placeholder for each argument."""
        arguments = sql.SQL(", ").join(
            sql.SQL("%s::{}").format(sql.SQL(kind))  # type: ignore[arg-type]
            for kind in self.qualified
        )
        verb = sql.SQL("call" if self.kind == "p" else "select * from")
        return sql.SQL("{} pgque.{}({})").format(verb, sql.Identifier(self.name), arguments)


_ROUTINES = """
    select p.proname, p.prokind::text, p.prosecdef,
        array(select format_type(t, null)
              from unnest(p.proargtypes) with ordinality as a (t, n) order by n),
        array(select format('%I.%I', s.nspname, t.typname)
              from unnest(p.proargtypes) with ordinality as a (oid, n)
              join pg_type t on t.oid = a.oid
              join pg_namespace s on s.oid = t.typnamespace
              order by n),
        coalesce(p.proargnames[:p.pronargs], '{}')
    from pg_proc p
    where p.pronamespace = 'pgque'::regnamespace
        and p.prorettype <> 'trigger'::regtype
        and p.proname <> 'uninstall'
    order by p.proname, p.oid
"""

_BY_NAME: dict[str, Any] = {
    "queue": "q",
    "queue_name": "q",
    "consumer": "c",
    "subconsumer": "m",
    "name": "c",
    "options": '{"max_retries": 2}',
    "part": "consumer",
    "ev_type": "t",
    "type_name": "t",
    "payloads": ["1"],
    "payload": "1",
    "param": "max_retries",
    "value": "3",
    "cursor_name": "events",
    "extra_where": "true",
    "role": "pgque_reader",
    "privilege": "consume",
    "called_function": "get_queue_info",
    "call_arguments": [None],
    "caller": "pgque_reader",
    "sequence_name": "pgque.batch_id_seq",
    "what": "it",
    "tables": "pgque.dead_letter",
    "child": "pgque.cursor_0",
    "queue_id": 1,
    "max_return": 1,
    "batch_handling": 1,
    "ms": 10,
}


def routines(conn: Connection) -> list[Routine]:
    """Return every function and procedure, except triggers and those that only the owner calls."""
    with conn.transaction():
        conn.execute("set local search_path = pg_catalog")
        return [Routine(*row) for row in conn.execute(_ROUTINES)]


def arguments(routine: Routine, **given: Any) -> list[Any]:
    """Return arguments that are mostly valid. `given` sets parameters by name."""
    made = []
    for kind, name in zip(routine.types, routine.names, strict=True):
        if name in given:
            made.append(given[name])
        elif name in _BY_NAME and (kind in _NAMED or "int" in kind):
            number = "int" in kind and not isinstance(_BY_NAME[name], int)
            made.append(1 if number else _BY_NAME[name])
        else:
            made.append(_BY_TYPE.get(kind))
    return made


_NAMED = ("text", "text[]", "json", "json[]", "jsonb", "jsonb[]")
_BY_TYPE: dict[str, Any] = {
    "text": "x",
    "text[]": ["x"],
    "json": "{}",
    "json[]": ["1"],
    "jsonb": "{}",
    "jsonb[]": ["1"],
    "bigint": 1,
    "bigint[]": [1],
    "integer": 1,
    "boolean": False,
    "interval": "0 seconds",
    "timestamp with time zone": "2020-01-01",
    "xid8": "3",
    "oid": 1,
}
