"""The public functions of the schema, read from the catalog."""

from tests.fix_engine import Connection, column

SIGNATURES = """
    select replace(proname || '(' || (
        select coalesce(string_agg(format_type(t, null), ',' order by n), '')
        from unnest(proargtypes) with ordinality as a (t, n)
    ) || ')', ' ', '')
    from pg_proc
    where pronamespace = 'pgque'::regnamespace
        and proname not like '\\_%'
    order by 1
"""


def signatures(conn: Connection) -> list[str]:
    """Every public function of the schema: its name and the types of its arguments."""
    return column(conn, SIGNATURES)
