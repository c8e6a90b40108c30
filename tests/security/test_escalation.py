"""No role gains rights that it was not granted, by calling, by triggers or by reading."""

import psycopg
import pytest
from psycopg import sql

from tests.fix_engine import Connection, column, receive, refused, send, subscribe, tick, value
from tests.security.calls import arguments, routines
from tests.security.fix_security import record

RIGHTS = """
    select 'member ' || roleid::regrole || ' ' || member::regrole from pg_auth_members
    union all
    select 'function ' || oid::regprocedure || coalesce(proacl::text, '') || proowner::regrole
        || prosecdef || md5(prosrc)
    from pg_proc where pronamespace = 'pgque'::regnamespace
    union all
    select 'relation ' || oid::regclass || coalesce(relacl::text, '') || relowner::regrole
    from pg_class where relnamespace = 'pgque'::regnamespace
    union all
    select 'schema ' || nspname || coalesce(nspacl::text, '') || nspowner::regrole
    from pg_namespace where nspname in ('pgque', 'public')
    union all
    select 'role ' || rolname || rolsuper || rolcreaterole || rolcreatedb || rolbypassrls
    from pg_roles where rolname ~ '^pgque_' and rolname !~ '^pgque_test_'
    union all
    select 'settings ' || setrole || setdatabase || setconfig::text from pg_db_role_setting
    where setdatabase in (0, (select oid from pg_database where datname = current_database()))
    union all
    select 'default ' || defaclrole::regrole || defaclacl::text from pg_default_acl
"""


def rights(conn: Connection, role: str) -> set[str]:
    """Return all rights in and around the schema, except those of other tests' roles."""
    known = {role, conn.info.user}

    def is_known(name: str) -> bool:
        if name.startswith("pgque_test_"):
            return False
        return name in known or name.startswith(("pgque_", "pg_"))

    return {
        line
        for line in column(conn, RIGHTS)
        if not line.startswith("member") or all(map(is_known, line.split()[1:]))
    }


@pytest.mark.parametrize("group", ["pgque_reader", "pgque_writer", "pgque_user", "pgque_admin"])
def test_p11_no_function_call_changes_any_rights(autoconn, group, new_role, log_in):
    role = new_role(group)
    conn = log_in(role)
    value(autoconn, "select pgque.create_queue('q')")
    subscribe(autoconn, "q", "c")
    send(autoconn, "q")
    tick(autoconn, "q")
    batch = receive(autoconn, "q", "c")[0].batch_id
    before = rights(autoconn, role)
    makes_objects = {"create_queue", "drop_queue", "grant_queue", "_make_log_functions"}
    makes_objects |= {"_drop_log_functions", "_make_append", "_drop_grant_functions", "ticker_loop"}
    called = denied = 0
    for routine in routines(autoconn):
        if routine.name in makes_objects:
            continue
        called += 1
        try:
            conn.execute(routine.call(), arguments(routine, batch_id=batch, role=role))
        except psycopg.Error as error:
            denied += error.sqlstate == "42501"
    assert rights(autoconn, role) == before
    assert called > 100
    if group == "pgque_admin":
        assert denied < called / 3
    else:
        assert denied > called / 2
    record(f"calls as {group}", autoconn, called=called, permission_denied=denied, rights_changed=0)


@pytest.mark.parametrize("group", ["pgque_reader", "pgque_writer", "pgque_user", "pgque_admin"])
def test_p11_no_role_can_grant_or_revoke_rights_in_the_schema(autoconn, group, new_role, log_in):
    role = new_role(group)
    conn = log_in(role)
    before = rights(autoconn, role)
    name = sql.Identifier(role)
    for statement in (
        "grant pgque_writer to {}",
        "grant pgque_reader to {}",
        "grant pgque_admin to {}",
        "grant pgque_user to {}",
        "alter role {} createrole",
        "alter schema pgque owner to {}",
        "alter function pgque.ack(bigint) owner to {}",
        "alter function pgque.finish_batch(bigint) security invoker",
        "alter function pgque.finish_batch(bigint) reset all",
        "create or replace function pgque.ack(batch_id bigint) returns int "
        "language sql as 'select 1'",
        "drop function pgque.ack(bigint)",
        "create function pgque.another() returns int language sql as 'select 1'",
        "alter table pgque.config add column another int",
        "create trigger t before insert on pgque.queue for each row execute function "
        "pg_catalog.suppress_redundant_updates_trigger()",
        "create rule r as on insert to pgque.cursor_0 do also select 1",
        "create policy p on pgque.queue using (true)",
        "alter default privileges for role postgres grant all on functions to {}",
        "alter default privileges in schema pgque for role postgres grant all on tables to {}",
        "create event trigger e on ddl_command_end execute function "
        "pg_catalog.suppress_redundant_updates_trigger()",
        "comment on schema pgque is 'mine'",
        "drop schema pgque cascade",
        "select pgque.uninstall()",
        "security label on table pgque.queue is 'x'",
        "grant select on all tables in schema pgque to {}",
    ):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(sql.SQL(statement).format(name))
        assert caught.value.sqlstate in ("42501", "22023", "42601", "42P17", "0A000"), statement
    assert rights(autoconn, role) == before


def test_p11_default_privileges_of_a_role_do_not_affect_objects_of_the_owner(
    autoconn, new_role, log_in
):
    role = new_role("pgque_admin")
    conn = log_in(role)
    for kind in ("tables", "sequences", "functions", "types"):
        conn.execute(f"alter default privileges grant all on {kind} to public".encode())
    value(conn, "select pgque.create_queue('q')")
    public = (
        "select count(*) from pg_class where relnamespace = 'pgque'::regnamespace "
        "and exists (select from aclexplode(relacl) a where a.grantee = 0)"
    )
    assert value(autoconn, public) == 0
    owners = "select distinct relowner::regrole::text from pg_class where relname ~ '^event_'"
    assert column(autoconn, owners) == [autoconn.info.user]


def test_a_role_that_may_only_send_sees_no_payload_and_no_name(
    autoconn, queue, consumer, new_role, log_in
):
    secret = "a payload that only readers see"
    send(autoconn, queue, secret)
    tick(autoconn, queue)
    receive(autoconn, queue, consumer)
    writer = log_in(new_role("pgque_writer"))
    seen = 0
    for routine in routines(autoconn):
        try:
            with writer.transaction(force_rollback=True):
                rows = writer.execute(routine.call(), arguments(routine, queue=queue)).fetchall()
                seen += 1
        except psycopg.Error as error:
            rows = [(str(error),)] if error.sqlstate != "42501" else []
        assert secret not in str(rows), routine.name
        if routine.name.startswith("get_"):
            assert rows == []
    assert seen > 5
    for relation in column(
        autoconn,
        "select oid::regclass::text from pg_class where relnamespace = 'pgque'::regnamespace "
        "and relkind in ('r', 'v', 'S') and relname <> 'config'",
    ):
        with refused("42501", "permission denied"):
            writer.execute(f"select * from {relation}".encode())


def test_information_functions_return_no_payload(autoconn, queue, consumer):
    secret = "a payload"
    send(autoconn, queue, secret)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)[0].batch_id
    for call in ("get_queue_info()", "get_consumer_info()", f"get_batch_info({batch})", "status()"):
        rows = autoconn.execute(f"select * from pgque.{call}".encode()).fetchall()
        assert rows != []
        assert secret not in str(rows)
