"""Every role against every object of the schema, from the catalog.

The lists below contain all privileges. A test fails if a role has others, or if a new public
function is not listed. New private functions must belong to the owner and the admin only.
"""

import itertools
import re

import psycopg
import pytest

from pgque.install import install
from tests.fix_engine import column, send, tick, value
from tests.security.fix_security import NewRole, record

WRITER_OR_USER = """
    send(text,jsonb) send(text,text) send(text,text,jsonb) send(text,text,text)
    send_batch(text,jsonb[]) send_batch(text,text[]) send_batch(text,text,jsonb[])
    send_batch(text,text,text[]) insert_event(text,text,text)
    send(text,json) send(text,text,json) send_batch(text,json[]) send_batch(text,text,json[])
    send_batch(text,text) send_batch(text,text,text) _as_array(text)
    insert_event(text,text,text,text,text,text,text)
    jsontriga() logutriga() sqltriga()
    _send_batch(text,text,text[]) _send_batch(text,text,text[],text)
    send_batch(text,text,text[],text)
    _capture(text,text[],text,text,text,oid,text,text,record,record) _capture_options(text[])
    _capture_table(oid,text,jsonb) _capture_values(record,text[],text) _capture_urlencode(text)
    _capture_row(text,record,text[],text) _capture_statement(text[],text[],text[],text[],text[])
"""
WRITER = """
    dlq_replay(bigint) dlq_replay_all(text)
    _insert_event(text,text,text,text,text,text,text) _append_batch(text,text,text[])
    _append_batch(text,text,text[],text)
"""
READER_OR_USER = """
    subscribe(text,text) unsubscribe(text,text) receive(text,text,integer)
    receive_merged(text,text,integer) ack(bigint) ack_or_fail(bigint) ack_part(bigint,bigint[])
    nack(bigint,pgque.message,interval,text) nack_many(bigint,bigint[],interval,text[])
    seek(text,text,bigint) seek(text,text,timestampwithtimezone)
    subscribe_subconsumer(text,text,text,boolean) unsubscribe_subconsumer(text,text,text,integer)
    receive_coop(text,text,text,integer,interval)
    receive_coop_merged(text,text,text,integer,interval) touch_subconsumer(text,text,text)
    get_queue_info() get_queue_info(text) get_consumer_info() get_consumer_info(text)
    get_consumer_info(text,text) get_queue_wait(text) get_consumer_wait(text,text)
    _seek_to(text,text,bigint,timestampwithtimezone)
"""
READER = """
    register_consumer(text,text) register_consumer_at(text,text,bigint)
    unregister_consumer(text,text) finish_batch(bigint)
    next_batch(text,text) next_batch_info(text,text)
    next_batch_custom(text,text,interval,integer,interval) get_batch_events(bigint)
    event_retry(bigint,bigint,timestampwithtimezone) event_retry(bigint,bigint,integer)
    register_subconsumer(text,text,text,boolean) unregister_subconsumer(text,text,text,integer)
    next_batch(text,text,text,interval)
    next_batch_custom(text,text,text,interval,integer,interval,interval)
    dlq_inspect(text,integer) get_batch_info(bigint)
    _open_batch(text,text,integer,boolean,bigint) _messages_sql(pgque.span)
    _share(text,text,text,integer,interval,boolean) _ack_or_fail(bigint)
    _ack_part(bigint,bigint[]) _nack(bigint,bigint,interval,text)
    _nack_many(bigint,bigint[],interval,text[]) _seek(text,text,bigint,timestampwithtimezone)
    _touch_subconsumer(text,text,text) _queue_info(text) _consumer_info(text,text)
    _queue_wait(text) _consumer_wait(text,text)
"""
ADMIN = """
    get_batch_cursor(bigint,text,integer) get_batch_cursor(bigint,text,integer,text)
    batch_retry(bigint,integer)
    event_dead(bigint,bigint,text,timestampwithtimezone,xid8,integer,text,text,text,text,text,text)
    create_queue(text) create_queue(text,jsonb) drop_queue(text) drop_queue(text,boolean)
    set_queue_config(text,text,text)
    ticker() ticker(text) ticker(text,bigint,timestampwithtimezone,bigint) ticker_may_sleep()
    ticks_are_late()
    force_next_tick(text) force_tick(text) ticker_loop() set_tick_period_ms(integer)
    start() stop() status() maint() maint_retry_events() maint_rotate_ledger()
    maint_rotate_tables_step1(text) maint_rotate_tables_step2() dlq_purge(text,interval)
    grant_queue(text,text,text) revoke_queue(text,text,text) queue_grants()
"""
ANYBODY = "version()"
OWNER = "uninstall()"
OF_A_QUEUE = re.compile(r"_event_\d+_")

ROLES = {
    "nobody": (),
    "user": ("pgque_user",),
    "writer": ("pgque_writer",),
    "reader": ("pgque_reader",),
    "both": ("pgque_writer", "pgque_reader"),
    "admin": ("pgque_admin",),
}
TABLES_OF_READERS = {
    *(
        "config",
        "queue",
        "consumer",
        "subscriber",
        "subscriber_role",
        "subscription",
        "cursor",
        "restore_report",
    ),
    *("cursor_0", "cursor_1", "tick", "tick_0", "tick_1", "retry_queue", "dead_letter"),
}
EVENTS = re.compile(r"event_\d+(_\d)?")
TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
SEQUENCE_PRIVILEGES = ("SELECT", "UPDATE", "USAGE")

SIGNATURE = (
    "replace(proname || '(' || (select coalesce(string_agg(format_type(t, null), ',' "
    "order by n), '') from unnest(proargtypes) with ordinality as a (t, n)) || ')', ' ', '')"
)
FUNCTIONS = f"select {SIGNATURE} from pg_proc where pronamespace = 'pgque'::regnamespace"


def callers_of(signature: str) -> set[str]:
    """Return the roles that may execute a function."""
    may = set()
    for text, roles in (
        (WRITER_OR_USER, {"writer", "both", "admin", "user"}),
        (WRITER, {"writer", "both", "admin"}),
        (READER_OR_USER, {"reader", "both", "admin", "user"}),
        (READER, {"reader", "both", "admin"}),
        (ADMIN, {"admin"}),
        (ANYBODY, ROLES.keys() - {"nobody"}),
    ):
        if signature in text.split():
            may |= roles
    if signature.startswith("_ask("):
        may = {"user", "admin"}
    elif OF_A_QUEUE.match(signature):
        may = {"reader", "both", "admin"} if "_messages(" in signature else set()
    elif signature.startswith("_"):
        may |= {"admin"}
    return may


@pytest.fixture
def busy_dsn(dsn: str, autoconn: psycopg.Connection, queue: str, new_role: NewRole) -> str:
    """Return a database with everything that is created later: queues, grants, a second install."""
    grantee = new_role()
    autoconn.execute("select pgque.create_queue('before')")
    value(autoconn, "select pgque.grant_queue(%s, 'before', 'consume')", grantee)
    install(dsn)
    autoconn.execute("select pgque.create_queue('after')")
    value(autoconn, "select pgque._make_append(true)")
    value(autoconn, "select pgque.grant_queue(%s, 'after', 'produce')", grantee)
    send(autoconn, "after")
    tick(autoconn, "after")
    return dsn


def test_p11_every_role_may_execute_the_listed_functions_and_no_others(
    busy_dsn, autoconn, new_role: NewRole
):
    names = {role: new_role(*groups) for role, groups in ROLES.items()}
    found = column(autoconn, FUNCTIONS)
    named = {
        name
        for text in (WRITER_OR_USER, WRITER, READER_OR_USER, READER, ADMIN, ANYBODY, OWNER)
        for name in text.split()
    }
    assert {name for name in found if not name.startswith("_")} == {
        name for name in named if not name.startswith("_")
    }, "update the lists above for new and removed public functions"
    assert named <= set(found)
    assert sum(bool(OF_A_QUEUE.match(name)) for name in found) == 3 * 7 + 2
    wrong = []
    checked = 0
    for role, name in names.items():
        query = f"{FUNCTIONS} and has_function_privilege(%s, oid, 'execute')"
        may = set(column(autoconn, query, name))
        for signature in found:
            checked += 1
            if (signature in may) != (role in callers_of(signature)):
                wrong.append((role, signature, signature in may))
    assert wrong == []
    record("functions", autoconn, functions=len(found), roles=len(ROLES), checked=checked)


def expected_on(relation: str, kind: str, role: str, privilege: str) -> bool:
    if kind == "S":
        return (relation, privilege, role) == ("ledger_child", "SELECT", "admin")
    if relation == "_call":
        return role == "user" and privilege == "SELECT"
    if privilege != "SELECT" or role in ("nobody", "user", "writer"):
        return relation == "config" and privilege == "SELECT" and role != "nobody"
    return relation in TABLES_OF_READERS or EVENTS.fullmatch(relation) is not None


def test_p11_every_role_may_read_the_listed_relations_and_write_none(
    busy_dsn, autoconn, new_role: NewRole
):
    names = {role: new_role(*groups) for role, groups in ROLES.items()}
    relations = autoconn.execute(
        "select oid, relname, relkind::text from pg_class "
        "where relnamespace = 'pgque'::regnamespace and relkind not in ('i', 'c')"
    ).fetchall()
    assert {"after", "before"} <= set(column(autoconn, "select queue_name from pgque.queue"))
    assert len([name for _, name, kind in relations if EVENTS.fullmatch(name)]) == 3 * 4
    newer = ("MAINTAIN",) if autoconn.info.server_version >= 170000 else ()
    asked = [
        (role, name, oid, relation, kind, privilege)
        for (oid, relation, kind), (role, name) in itertools.product(relations, names.items())
        for privilege in (SEQUENCE_PRIVILEGES if kind == "S" else TABLE_PRIVILEGES + newer)
    ]
    answers = autoconn.execute(
        "select case when kind = 'S' then has_sequence_privilege(role, relation, privilege) "
        "else has_table_privilege(role, relation, privilege) end "
        "from unnest(%s::name[], %s::oid[], %s::text[], %s::text[]) with ordinality "
        "as t (role, relation, kind, privilege, n) order by n",
        [[row[n] for row in asked] for n in (1, 2, 4, 5)],
    ).fetchall()
    wrong = [
        (role, relation, privilege, may)
        for (role, _, _, relation, kind, privilege), (may,) in zip(asked, answers, strict=True)
        if may != expected_on(relation, kind, role, privilege)
    ]
    assert wrong == []
    columns = (
        "select attname from pg_attribute where attrelid = 'pgque._call'::regclass and attnum > 0 "
        "and has_column_privilege(%s, attrelid, attnum, 'update')"
    )
    assert set(column(autoconn, columns, names["user"])) == {"called", "arguments", "texts"}
    assert column(autoconn, columns, names["both"]) == []
    record("relations", autoconn, relations=len(relations), roles=len(ROLES), checked=len(asked))


def test_p11_only_roles_that_pass_a_type_may_use_it(busy_dsn, autoconn, new_role: NewRole):
    usage = (
        "select typname from pg_type t where typnamespace = 'pgque'::regnamespace "
        "and typtype <> 'b' and has_type_privilege(%s, t.oid, 'usage')"
    )
    for role, groups in ROLES.items():
        expected = {"message"} if role in ("user", "reader", "both", "admin") else set()
        assert set(column(autoconn, usage, new_role(*groups))) == expected, role


def test_p11_no_role_may_create_objects_in_the_schema(busy_dsn, autoconn, new_role: NewRole):
    for groups in ROLES.values():
        role = new_role(*groups)
        assert not value(autoconn, "select has_schema_privilege(%s, 'pgque', 'create')", role)
        usage = value(autoconn, "select has_schema_privilege(%s, 'pgque', 'usage')", role)
        assert usage == bool(groups)


def test_p11_writer_and_reader_are_siblings_and_the_admin_is_both(shared):
    member = "select pg_has_role(%s, %s, 'member')"
    roles = ("pgque_writer", "pgque_reader", "pgque_user", "pgque_admin")
    above = {(a, b) for a in roles for b in roles if a != b and value(shared, member, a, b)}
    assert above == {("pgque_admin", "pgque_writer"), ("pgque_admin", "pgque_reader")}
    for role in roles:
        attributes = (
            "select rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolbypassrls "
            "or rolreplication from pg_roles where rolname = %s"
        )
        assert value(shared, attributes, role) is False


PUBLIC_GRANTS = """
    select format('%%s %%s to public on %%s', grants.privilege_type, kind, name)
    from (
        select 'relation', oid::regclass::text,
            coalesce(
                relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner))
        from pg_class
        where relnamespace = 'pgque'::regnamespace and relkind in ('r', 'v', 'S', 'p', 'm', 'f')
        union all
        select 'column', attrelid::regclass || '.' || attname, attacl
        from pg_attribute
        join pg_class c on c.oid = attrelid and c.relnamespace = 'pgque'::regnamespace
        union all
        select 'function', oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner))
        from pg_proc
        where pronamespace = 'pgque'::regnamespace
        union all
        select 'schema', nspname, coalesce(nspacl, acldefault('n', nspowner))
        from pg_namespace
        where nspname = 'pgque'
        union all
        select 'type', oid::regtype::text, coalesce(typacl, acldefault('T', typowner))
        from pg_type
        where typnamespace = 'pgque'::regnamespace and typtype <> 'b' -- arrays follow their element
    ) object (kind, name, acl)
    cross join lateral aclexplode(acl) grants
    where grants.grantee = 0
"""


def test_p11_public_has_no_privileges_whatever_the_default_privileges(databases, new_role):
    grantee = new_role()
    dsn = databases.create()
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            for kind in ("tables", "sequences", "functions", "types"):
                conn.execute(f"alter default privileges grant all on {kind} to public".encode())
            install(conn)
            for queue in ("q", "r"):
                value(conn, "select pgque.create_queue(%s)", queue)
                for privilege in ("produce", "consume"):
                    grant = "select pgque.grant_queue(%s, %s, %s)"
                    assert value(conn, grant, grantee, queue, privilege) == 1
            value(conn, "select pgque._make_append(true)")
            assert column(conn, PUBLIC_GRANTS) == []
            install(conn)
            assert column(conn, PUBLIC_GRANTS) == []
            objects = value(
                conn,
                "select (select count(*) from pg_proc where pronamespace = 'pgque'::regnamespace) "
                "+ (select count(*) from pg_class where relnamespace = 'pgque'::regnamespace)",
            )
            record("public", conn, objects=objects, grants_to_public=0)
    finally:
        databases.drop(dsn)


def test_a_second_installation_changes_no_grant(dsn, autoconn, queue):
    acls = (
        "select proacl::text || oid::regprocedure from pg_proc "
        "where pronamespace = 'pgque'::regnamespace "
        "union all select coalesce(relacl::text, '') || oid::regclass from pg_class "
        "where relnamespace = 'pgque'::regnamespace"
    )
    before = set(column(autoconn, acls))
    install(dsn)
    assert set(column(autoconn, acls)) == before
