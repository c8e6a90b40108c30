"""Rules for every function, table and type of the schema, from the catalog.

They include the objects that create_queue and grant_queue create.
"""

import secrets

import psycopg
import pytest

from tests.fix_engine import Connection, column, value
from tests.security.fix_security import record

CALLERS_RIGHTS = {
    # Public functions that run with the caller's rights: see sql/queue_grants.
    *("send", "send_batch", "insert_event", "subscribe", "unsubscribe", "receive", "seek"),
    *("receive_merged", "ack", "ack_or_fail", "ack_part", "nack", "nack_many", "receive_coop"),
    *("receive_coop_merged", "touch_subconsumer", "subscribe_subconsumer"),
    *("unsubscribe_subconsumer", "get_queue_info", "get_consumer_info"),
    *("get_queue_wait", "get_consumer_wait"),
    # Functions that run the caller's SQL, which must have the caller's rights.
    *("get_batch_cursor", "jsontriga", "logutriga", "sqltriga"),
    # The first one commits. Only the owner may call the second one.
    *("ticker_loop", "uninstall"),
    # This one reads nothing.
    "version",
}
ONLY_READ = {
    # Functions that promise the planner to change nothing.
    "immutable": {
        *(
            "version",
            "_name_key",
            "_late",
            "_finished",
            "_same_place",
            "_part",
            "_span_arms",
            "_span_query",
        ),
        *("_messages_sql", "_capture_options", "_capture_urlencode", "_capture_statement"),
        *("_grant_function", "_force_sequence", "_event_produce", "_event_consume"),
        *("_history_sequence", "_queue_state", "_consumer_state", "_new_since"),
    },
    "stable": {
        *("_queue", "_subscriber", "_member", "_cron_has_seconds", "_capture_table"),
        *("_grantees", "_granted", "_is_own"),
    },
}
NEVER_IN_READERS = r"\m(insert into|update|delete from|nextval|setval|truncate|for update)\M"


@pytest.fixture(scope="module")
def schema(databases, template):
    """Return a connection to a database with two queues and grants for one of them."""
    dsn = databases.create(template)
    with psycopg.connect(dsn, autocommit=True) as conn:
        value(conn, "select pgque.create_queue('one')")
        value(conn, "select pgque.create_queue('two')")
        role = f"rules_{secrets.token_hex(4)}"
        conn.execute(f"create role {role}".encode())
        for privilege in ("produce", "consume"):
            value(conn, "select pgque.grant_queue(%s, 'one', %s)", role, privilege)
        yield conn
        conn.execute(f"drop owned by {role}; drop role {role}".encode())
    databases.drop(dsn)


FUNCTIONS = (
    "select p.oid::regprocedure::text from pg_proc p "
    "where p.pronamespace = 'pgque'::regnamespace and "
)


def test_every_function_has_a_comment(schema: Connection):
    assert column(schema, FUNCTIONS + "coalesce(obj_description(p.oid, 'pg_proc'), '') = ''") == []
    record("comments", schema, functions=len(column(schema, FUNCTIONS + "true")), missing=0)


def test_every_table_view_sequence_and_type_has_a_comment(schema: Connection):
    """Sequences of identity columns are exempt."""
    relations = (
        "select c.oid::regclass::text from pg_class c "
        "where c.relnamespace = 'pgque'::regnamespace and c.relkind in ('r', 'v', 'S', 'p', 'm') "
        "and obj_description(c.oid, 'pg_class') is null "
        "and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass "
        "and d.objid = c.oid and d.deptype = 'i')"
    )
    assert column(schema, relations) == []
    types = (
        "select t.oid::regtype::text from pg_type t left join pg_class c on c.oid = t.typrelid "
        "where t.typnamespace = 'pgque'::regnamespace and t.typtype <> 'b' "
        "and coalesce(c.relkind, 'c') = 'c' and obj_description(t.oid, 'pg_type') is null"
    )
    assert column(schema, types) == []


def test_p11_every_security_definer_function_has_the_pinned_search_path(schema: Connection):
    path = "'search_path=pg_catalog, pg_temp' = any (coalesce(p.proconfig, '{}'))"
    assert column(schema, FUNCTIONS + f"p.prosecdef and not {path}") == []
    other = "exists (select from unnest(p.proconfig) s where s like 'search_path=%%')"
    assert column(schema, FUNCTIONS + f"{other} and not {path}") == []
    record(
        "search_path",
        schema,
        security_definer_functions=len(column(schema, FUNCTIONS + "p.prosecdef")),
        not_pinned=0,
    )


def test_p11_public_functions_are_security_definer_or_listed_as_invoker(schema: Connection):
    public = "select distinct proname from pg_proc p where pronamespace = 'pgque'::regnamespace "
    invoker = column(schema, public + "and not prosecdef and proname !~ '^_'")
    assert set(invoker) == CALLERS_RIGHTS


def test_p11_every_function_and_relation_has_explicit_grants(schema: Connection):
    assert column(schema, FUNCTIONS + "p.proacl is null") == []
    relations = (
        "select oid::regclass::text from pg_class where relnamespace = 'pgque'::regnamespace "
        "and relkind in ('r', 'v', 'S') and relacl is null"
    )
    assert column(schema, relations) == []


def test_no_function_claims_a_wrong_volatility(schema: Connection):
    """Volatile is always right. Immutable and stable are promises, all listed here."""
    kinds = (
        "select distinct provolatile::text, regexp_replace(proname, '^_event_\\d+_', '_event_') "
        "from pg_proc p where pronamespace = 'pgque'::regnamespace and provolatile <> 'v'"
    )
    found = {kind: set() for kind in "is"}
    for kind, name in schema.execute(kinds).fetchall():
        found[kind].add(name)
    assert found["i"] == ONLY_READ["immutable"]
    assert found["s"] == ONLY_READ["stable"]
    writes = FUNCTIONS + f"p.provolatile <> 'v' and p.prosrc ~* '{NEVER_IN_READERS}'"
    assert column(schema, writes) == []
    tables = (
        FUNCTIONS + r"p.provolatile = 'i' and p.prosrc ~* '\m(from|join) pgque\.[a-z]\w*\M[^(]'"
    )
    assert column(schema, tables) == []
    parallel = FUNCTIONS + "p.proparallel <> 'u'"
    assert column(schema, parallel) == []
    assert column(schema, FUNCTIONS + "p.proleakproof") == []


def test_p7_functions_called_per_batch_use_indexes_and_no_jit(schema: Connection):
    callers = (
        "p.prosecdef and p.proname not in ('_insert_event', '_append_batch', '_open_batch', "
        "'_share') or p.proname in ('receive', 'receive_merged', 'receive_coop', "
        "'receive_coop_merged')"
    )
    settings = "array['jit=off', 'enable_seqscan=off', 'enable_sort=off'] <@ p.proconfig"
    assert column(schema, FUNCTIONS + f"({callers})") != []
    assert column(schema, FUNCTIONS + f"({callers}) and ({settings}) is not true") == []
