"""Who may do what (sql/99_roles.sql, sql/98_plans.sql), read from the catalog and tried out."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgque.install import install
from tests.fix_engine import (
    ack,
    column,
    drain,
    nack,
    payloads,
    receive,
    receive_coop,
    refused,
    rotate,
    rotate_ledger,
    send,
    tick,
    value,
)

WRITER = """
    send(text,jsonb) send(text,text) send(text,text,jsonb) send(text,text,text)
    send_batch(text,jsonb[]) send_batch(text,text[]) send_batch(text,text,jsonb[])
    send_batch(text,text,text[]) insert_event(text,text,text)
    insert_event(text,text,text,text,text,text,text) dlq_replay(bigint) dlq_replay_all(text)
    jsontriga() logutriga() sqltriga() version()
"""
READER = """
    subscribe(text,text) unsubscribe(text,text) register_consumer(text,text)
    register_consumer_at(text,text,bigint) unregister_consumer(text,text)
    receive(text,text,integer) receive_merged(text,text,integer) ack(bigint) finish_batch(bigint)
    ack_or_fail(bigint) ack_part(bigint,bigint[]) nack(bigint,pgque.message,interval,text)
    nack_many(bigint,bigint[],interval,text[])
    seek(text,text,bigint) seek(text,text,timestampwithtimezone)
    next_batch(text,text) next_batch_info(text,text)
    next_batch_custom(text,text,interval,integer,interval) get_batch_events(bigint)
    event_retry(bigint,bigint,timestampwithtimezone) event_retry(bigint,bigint,integer)
    register_subconsumer(text,text,text,boolean) subscribe_subconsumer(text,text,text,boolean)
    unregister_subconsumer(text,text,text,integer)
    unsubscribe_subconsumer(text,text,text,integer)
    receive_coop(text,text,text,integer,interval)
    receive_coop_merged(text,text,text,integer,interval)
    next_batch(text,text,text,interval)
    next_batch_custom(text,text,text,interval,integer,interval,interval)
    touch_subconsumer(text,text,text) dlq_inspect(text,integer)
    get_queue_info() get_queue_info(text) get_consumer_info() get_consumer_info(text)
    get_consumer_info(text,text) get_batch_info(bigint) version()
"""
ADMIN = """
    get_batch_cursor(bigint,text,integer) get_batch_cursor(bigint,text,integer,text)
    batch_retry(bigint,integer)
    event_dead(bigint,bigint,text,timestampwithtimezone,xid8,integer,text,text,text,text,text,text)
    create_queue(text) drop_queue(text) drop_queue(text,boolean) set_queue_config(text,text,text)
    ticker() ticker(text) ticker(text,bigint,timestampwithtimezone,bigint) ticker_may_sleep()
    force_next_tick(text) force_tick(text) ticker_loop() set_tick_period_ms(integer)
    start() stop() status() maint() maint_retry_events() maint_rotate_ledger()
    maint_rotate_tables_step1(text) maint_rotate_tables_step2() dlq_purge(text,interval)
"""
OWNER = "uninstall()"
WITH_THE_CALLERS_RIGHTS = {
    "uninstall()",
    "ticker_loop()",
    "get_batch_cursor(bigint,text,integer)",
    "get_batch_cursor(bigint,text,integer,text)",
    "jsontriga()",
    "logutriga()",
    "sqltriga()",
    "send(text,text)",
    "send(text,jsonb)",
    "send(text,text,text)",
    "send(text,text,jsonb)",
    "insert_event(text,text,text)",
}
SIGNATURE = (
    "replace(proname || '(' || (select coalesce(string_agg(format_type(t, null), ',' "
    "order by n), '') from unnest(proargtypes) with ordinality as a (t, n)) || ')', ' ', '')"
)
PUBLIC_FUNCTIONS = (
    f"select {SIGNATURE} from pg_proc "
    "where pronamespace = 'pgque'::regnamespace and proname not like '\\_%%'"
)


def executable(conn, role: str) -> set[str]:
    query = f"{PUBLIC_FUNCTIONS} and has_function_privilege(%s, oid, 'execute')"
    return set(column(conn, query, role))


@pytest.fixture
def act_as(autoconn) -> Iterator:
    """Let the connection go on with the rights of a role."""

    def act_as(role: str) -> psycopg.Connection:
        autoconn.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        return autoconn

    return act_as


# The catalog


def test_p11_every_function_is_granted_as_the_contract_says_and_no_other(shared):
    assert executable(shared, "pgque_writer") == set(WRITER.split())
    assert executable(shared, "pgque_reader") == set(READER.split())
    everything = {*WRITER.split(), *READER.split(), *ADMIN.split()}
    assert executable(shared, "pgque_admin") == everything
    assert set(column(shared, PUBLIC_FUNCTIONS)) == {*everything, OWNER}


def test_p11_internal_functions_are_for_admins_and_capture_for_writers(shared):
    internal = (
        "select proname from pg_proc where pronamespace = 'pgque'::regnamespace "
        "and proname like '\\_%%' and has_function_privilege(%s, oid, 'execute')"
    )
    assert column(shared, internal, "pgque_reader") == []
    assert all(name.startswith("_capture") for name in column(shared, internal, "pgque_writer"))


def test_p11_writer_and_reader_are_siblings_and_the_admin_is_both(shared):
    member = "select pg_has_role(%s, %s, 'member')"
    assert not value(shared, member, "pgque_writer", "pgque_reader")
    assert not value(shared, member, "pgque_reader", "pgque_writer")
    assert value(shared, member, "pgque_admin", "pgque_writer")
    assert value(shared, member, "pgque_admin", "pgque_reader")
    for role in ("pgque_writer", "pgque_reader"):
        assert not value(shared, member, role, "pgque_admin")
        assert not value(shared, "select rolcanlogin from pg_roles where rolname = %s", role)


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
        where oid = 'pgque.message'::regtype
    ) object (kind, name, acl)
    cross join lateral aclexplode(acl) grants
    where grants.grantee = 0
"""


def test_p11_nothing_is_for_public_whatever_the_default_privileges_say(databases):
    dsn = databases.create()
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            for kind in ("tables", "sequences", "functions", "types"):
                conn.execute(f"alter default privileges grant all on {kind} to public".encode())
            install(conn)
            value(conn, "select pgque.create_queue('q')")
            assert column(conn, PUBLIC_GRANTS) == []
            install(conn)
            assert column(conn, PUBLIC_GRANTS) == []
    finally:
        databases.drop(dsn)


def test_p11_a_role_without_grants_can_neither_read_nor_call(autoconn, queue, act_as):
    tables = column(
        autoconn,
        "select oid::regclass::text from pg_class where relnamespace = 'pgque'::regnamespace "
        "and relkind in ('r', 'v')",
    )
    assert len(tables) >= 17
    create = "create role nobody_special"
    autoconn.execute(f"do $$ begin {create}; exception when duplicate_object then null; end $$")
    act_as("nobody_special")
    for table in tables:
        with refused("42501", "permission denied for schema pgque"):
            autoconn.execute(f"select from {table}".encode())
    for call in (
        f"send('{queue}', 'x'::text)",
        f"receive('{queue}', 'c')",
        "ticker()",
        "version()",
    ):
        with refused("42501", "permission denied for schema pgque"):
            autoconn.execute(f"select pgque.{call}".encode())


def test_p11_every_security_definer_function_has_a_pinned_search_path(shared):
    definer = (
        f"select {SIGNATURE}, proconfig from pg_proc "
        "where pronamespace = 'pgque'::regnamespace and prosecdef"
    )
    found = shared.execute(definer).fetchall()
    for name, settings in found:
        assert "search_path=pg_catalog, pg_temp" in settings, name
    public = {name for name, _ in found if not name.startswith("_")}
    assert public == set(column(shared, PUBLIC_FUNCTIONS)) - WITH_THE_CALLERS_RIGHTS - {"version()"}


def test_p7_every_security_definer_function_but_sends_plans_for_indexes_and_never_compiles(shared):
    definer = (
        "select proconfig from pg_proc where pronamespace = 'pgque'::regnamespace and prosecdef "
        "and proname not in ('send', 'send_batch', 'insert_event')"
    )
    for settings in column(shared, definer):
        assert {"jit=off", "enable_seqscan=off", "enable_sort=off"} <= set(settings)


def test_p11_every_function_has_a_comment(shared):
    uncommented = (
        "select oid::regprocedure from pg_proc where pronamespace = 'pgque'::regnamespace "
        "and coalesce(obj_description(oid, 'pg_proc'), '') = ''"
    )
    assert column(shared, uncommented) == []


# Tried out


def test_a_writer_sends_and_no_more(autoconn, queue, consumer, act_as):
    act_as("pgque_writer")
    send(autoconn, queue, "written")
    value(autoconn, "select pgque.send_batch(%s, '{a,b}'::text[])", queue)
    for call in (
        f"receive('{queue}', '{consumer}')",
        f"ticker('{queue}')",
        f"subscribe('{queue}', 'd')",
        "ack(1)",
        "create_queue('other')",
        f"dlq_inspect('{queue}')",
        "_queue('x'::text)",
    ):
        with refused("42501", "permission denied for function"):
            autoconn.execute(f"select pgque.{call}".encode())
    for table in ("event_1", "queue", "cursor", "tick", "retry_queue", "dead_letter"):
        with refused("42501", "permission denied for table"):
            autoconn.execute(f"select from pgque.{table}".encode())
    autoconn.execute("reset role")
    assert payloads(drain(autoconn, queue, consumer)) == ["written", "a", "b"]


def test_a_reader_consumes_and_no_more(autoconn, queue, act_as):
    act_as("pgque_reader")
    value(autoconn, "select pgque.subscribe(%s, 'c')", queue)
    autoconn.execute("reset role")
    for _ in range(3):
        send(autoconn, queue)
    tick(autoconn, queue)
    act_as("pgque_reader")
    batch = receive(autoconn, queue, "c", 2)
    nack(autoconn, batch[0])
    event_retry = "select pgque.event_retry(%s, %s, 0)"
    assert value(autoconn, event_retry, batch[0].batch_id, batch[1].msg_id) == 1
    assert (
        value(autoconn, "select count(*) from pgque.get_batch_events(%s)", batch[0].batch_id) == 2
    )
    assert ack(autoconn, batch) == 1
    for call in (
        f"send('{queue}', 'x'::text)",
        f"insert_event('{queue}', 't', 'x')",
        "dlq_replay(1)",
        "ticker()",
        "maint()",
        f"drop_queue('{queue}', true)",
        "get_batch_cursor(1, 'c', 1)",
        "batch_retry(1, 1)",
        "_move(null)",
    ):
        with refused("42501", "permission denied for function"):
            autoconn.execute(f"select pgque.{call}".encode())
    for table in ("event_1", "event_1_0", "queue", "subscription", "tick", "retry_queue", "config"):
        autoconn.execute(f"select from pgque.{table}".encode())
        if table != "subscription":
            with refused("42501", "permission denied for table"):
                autoconn.execute(f"truncate pgque.{table}".encode())
    assert len(receive_coop(autoconn, queue, "g", "a")) == 0
    assert value(autoconn, "select pgque.seek(%s, 'g', 1)", queue) == 1
    assert len(receive_coop(autoconn, queue, "g", "a")) == 3


def test_an_admin_does_everything_but_uninstall(autoconn, act_as):
    act_as("pgque_admin")
    value(autoconn, "select pgque.create_queue('q')")
    value(autoconn, "select pgque.subscribe('q', 'c')")
    value(autoconn, "select pgque.set_queue_config('q', 'max_retries', '0')")
    for _ in range(3):
        send(autoconn, "q")
    assert value(autoconn, "select pgque.ticker()") == 1
    batch = receive(autoconn, "q", "c")
    nack(autoconn, batch[0])
    assert value(autoconn, "select pgque.batch_retry(%s, 0)", batch[0].batch_id) == 3
    ack(autoconn, batch)
    assert value(autoconn, "select pgque.dlq_replay(dl_id) from pgque.dlq_inspect('q')") > 3
    assert value(autoconn, "select pgque.maint()") == 3
    assert len(drain(autoconn, "q", "c")) == 4
    assert len(autoconn.execute("select * from pgque.status()").fetchall()) == 4
    with refused("42501", "permission denied for function uninstall"):
        autoconn.execute("select pgque.uninstall()")
    with refused("42501", "must be owner of schema pgque"):
        autoconn.execute("drop schema pgque cascade")
    assert value(autoconn, "select pgque.drop_queue('q', true)") == 1


def test_p11_the_condition_of_get_batch_cursor_has_the_rights_of_its_caller(
    conn, autoconn, queue, consumer
):
    for n in range(3):
        send(autoconn, queue, n)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    conn.execute("set role pgque_admin")
    conn.execute("set search_path = 'public'")
    query = "select ev_data from pgque.get_batch_cursor(%s, 'c', 1, %s)"
    condition = "ev_id > 1 and current_user = 'pgque_admin'"
    assert column(conn, query, batch[0].batch_id, condition) == ["1"]
    assert len(conn.execute("fetch all from c").fetchall()) == 1
    conn.execute("close c")
    with refused("42501", "permission denied"), conn.transaction():
        conn.execute(
            query, [batch[0].batch_id, "(select rolpassword is null from pg_authid limit 1)"]
        )


def test_p11_what_is_on_the_callers_search_path_is_never_called(autoconn, queue, act_as):
    """Objects of the caller's that would be found first, were a name in here not qualified."""
    autoconn.execute("create schema mine")
    autoconn.execute("grant all on schema mine to pgque_admin")
    act_as("pgque_admin")
    autoconn.execute("set search_path = mine, pg_temp, pg_catalog")
    autoconn.execute("create table queue (queue_name text)")
    autoconn.execute("create table mine.config (ledger_child int)")
    for signature in (
        "nextval(regclass) returns bigint",
        "clock_timestamp() returns timestamptz",
        "pg_current_xact_id() returns xid8",
        "coalesce_first(int) returns int",
        "format(text, text) returns text",
        "pg_notify(text, text) returns void",
    ):
        autoconn.execute(
            f"create function mine.{signature} language plpgsql as "
            "$$ begin raise exception 'called'; end $$".encode()
        )
    value(autoconn, "select pgque.subscribe(%s, 'c')", queue)
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, "c")
    nack(autoconn, batch[0])
    assert ack(autoconn, batch) == 1
    assert value(autoconn, "select pgque.maint()") == 1


def test_an_owner_without_any_other_right_runs_the_whole_street(databases, server_dsn):
    create = "create role plain_owner"
    with psycopg.connect(server_dsn, autocommit=True) as admin:
        admin.execute(f"do $$ begin {create}; exception when duplicate_object then null; end $$")
    dsn = databases.create()
    try:
        with psycopg.connect(dsn, autocommit=True) as admin:
            name = sql.Identifier(admin.info.dbname)
            admin.execute(sql.SQL("alter database {} owner to plain_owner").format(name))
        install(make_conninfo(dsn, options="-c role=plain_owner"))
        with psycopg.connect(dsn, autocommit=True, options="-c role=plain_owner") as conn:
            value(conn, "select pgque.create_queue('q')")
            value(conn, "select pgque.subscribe('q', 'c')")
            for n in range(3):
                send(conn, "q", n)
                tick(conn, "q")
                batch = receive(conn, "q", "c")
                nack(conn, batch[0])
                ack(conn, batch)
                value(conn, "select pgque.maint()")
                assert len(drain(conn, "q", "c")) == 1
                assert rotate(conn, "q") == 1
                assert rotate_ledger(conn)
            assert len(conn.execute("select * from pgque.status()").fetchall()) == 4
            value(conn, "select pgque.drop_queue('q', true)")
            value(conn, "select pgque.uninstall()")
    finally:
        databases.drop(dsn)


def test_p5_an_installation_does_not_wait_for_transactions_at_work(
    connect, autoconn, queue, consumer
):
    """They have sent, received, nacked, sent to the dead letters and taken over."""
    value(autoconn, "select pgque.set_queue_config(%s, 'max_retries', '1')", queue)
    for n in range(2):
        send(autoconn, queue, n)
    tick(autoconn, queue)
    worker = connect()
    batch = receive(worker, queue, consumer)
    nack(worker, batch[0])
    event_dead = "select pgque.event_dead(%s, %s, 'r', now(), '1', 0, 't', 'd')"
    value(worker, event_dead, batch[0].batch_id, batch[1].msg_id)
    ack(worker, batch)
    send(worker, queue)
    tick(worker, queue)
    with psycopg.connect(autoconn.info.dsn, autocommit=True) as installer:
        installer.execute("set lock_timeout = '2s'")
        install(installer)
    worker.commit()
    assert value(autoconn, "select count(*) from pgque.retry_queue") == 1


def test_an_admin_reads_a_batch_by_cursor_after_the_ledger_was_rotated(
    autoconn, queue, consumer, act_as
):
    rotate_ledger(autoconn)
    send(autoconn, queue, "one")
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    act_as("pgque_admin")
    call = "select ev_data from pgque.get_batch_cursor(%s, 'c', 10)"
    with autoconn.transaction():
        assert autoconn.execute(call, [batch[0].batch_id]).fetchall() == [("one",)]
