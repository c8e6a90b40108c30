"""Objects of an attacker's that would be found first, were a name in the schema not pinned.

He has every right short of the owner's, a schema of his own, and what is temporary. His operators,
functions, aggregates, types and tables say under whose name they were called: his own is his own
affair, the owner's would be the end of the walls.
"""

import contextlib
import re

import psycopg
import pytest
from psycopg import sql

from tests.fix_engine import (
    Connection,
    column,
    ids,
    notices,
    receive,
    receive_coop,
    send,
    subscribe,
    tick,
    value,
)
from tests.security.calls import arguments, routines
from tests.security.fix_security import record

SHADOWS = """
    do $do$
    declare
        item record;
        body constant text := $$ begin raise warning 'ATTACKED as %', current_user; return null; end $$;
    begin
        -- Every function of pg_catalog whose name stands before a bracket in one of pgque.
        for item in
            select p.proname, pg_get_function_result(p.oid) as result,
                (select coalesce(string_agg(format_type(t, null), ', ' order by n), '')
                 from unnest(p.proargtypes) with ordinality as a (t, n)) as arguments
            from pg_proc p
            where p.pronamespace = 'pg_catalog'::regnamespace
                and p.prokind = 'f'
                and not p.proretset
                and exists (
                    select from pg_proc f
                    where f.pronamespace = 'pgque'::regnamespace
                        and f.prosrc ~ ('\\m' || p.proname || '\\s*\\(')
                )
        loop
            begin
                execute format('create function lair.%I(%s) returns %s language plpgsql as %L',
                    item.proname, item.arguments, item.result,
                    case item.result when 'void' then replace(body, 'return null;', '') else body end);
            exception when invalid_function_definition or feature_not_supported then null;
            end;
        end loop;
        -- Every operator between the types that pgque compares and adds.
        for item in
            select o.oprname, o.oprleft::regtype as l, o.oprright::regtype as r,
                o.oprresult::regtype as result, row_number() over () as n
            from pg_operator o
            where o.oprnamespace = 'pg_catalog'::regnamespace
                and o.oprkind = 'b'
                and o.oprleft = any ('{text,name,int4,int8,int2,numeric,bool,oid,xid8,timestamptz,interval,float8,
                    jsonb,"char",anyarray,pg_snapshot}'::regtype[])
        loop
            begin
                execute format('create function lair.op_%s(%s, %s) returns %s language plpgsql as %L',
                    item.n, item.l, item.r, item.result, body);
                execute format('create operator lair.%s (leftarg = %s, rightarg = %s, function = lair.op_%s)',
                    item.oprname, item.l, item.r, item.n);
            exception when invalid_function_definition or feature_not_supported then null;
            end;
        end loop;
        -- Aggregates, types and tables.
        for item in select unnest('{bigint,int,numeric,timestamptz}'::text[]) as t, unnest('{1,2,3,4}'::int[]) as n loop
            execute format('create function lair.step_%s(%s, %s) returns %2$s language plpgsql as %L', item.n, item.t, item.t, body);
            execute format('create aggregate lair.max(%s) (sfunc = lair.step_%s, stype = %1$s)', item.t, item.n);
            execute format('create aggregate lair.min(%s) (sfunc = lair.step_%s, stype = %1$s)', item.t, item.n);
            execute format('create aggregate lair.sum(%s) (sfunc = lair.step_%s, stype = %1$s)', item.t, item.n);
        end loop;
        for item in select unnest('{text,name,oid,xid8,jsonb,interval,regclass,regprocedure,timestamptz,pg_snapshot}'::text[]) as t loop
            execute format('create domain lair.%I as pg_catalog.int4 check (value < 0)', item.t);
        end loop;
        for item in select relname from pg_class
            where relnamespace in ('pgque'::regnamespace, 'pg_catalog'::regnamespace) and relkind in ('r', 'v')
        loop
            execute format('create temporary table %I (attacked int)', item.relname);
            if item.relname !~ '^pg_' then
                execute format('create table lair.%I (attacked int)', item.relname);
            end if;
        end loop;
    end
    $do$
"""
PATHS = ("lair, pg_temp, pg_catalog, pgque", "pg_temp, lair, pgque, pg_catalog")


@pytest.fixture(params=PATHS)
def attacker(request, autoconn, new_role, log_in) -> Connection:
    """An admin of pgque in whose sessions his own objects come first."""
    role = new_role("pgque_admin", name="attacker")
    autoconn.execute(sql.SQL("create schema lair authorization {}").format(sql.Identifier(role)))
    conn = log_in(role)
    conn.execute(SHADOWS.encode())
    made = value(conn, "select count(*) from pg_proc where pronamespace = 'lair'::regnamespace")
    assert made > 300
    conn.execute(f"set search_path = {request.param}".encode())
    return conn


@contextlib.contextmanager
def nothing_runs_as_the_owner(conn: Connection, owner: str):
    heard = notices(conn)
    yield heard
    attacks = [text for text in heard if re.search(rf"ATTACKED as {owner}\b", text)]
    assert attacks == []


def test_p11_every_function_is_called_and_no_foreign_code_runs_with_its_rights(attacker, autoconn):
    owner = autoconn.info.user
    value(autoconn, "select pgque.create_queue('q')")
    subscribe(autoconn, "q", "c")
    send(autoconn, "q", "one")
    tick(autoconn, "q")
    batch = receive(autoconn, "q", "c")[0].batch_id
    called = routines(autoconn)
    may = "select has_function_privilege(%s, %s::regprocedure, 'execute')"
    reached = refused = 0
    skipped = ("ticker_loop", "drop_queue")  # one runs for a slot, the other ends the queue
    with nothing_runs_as_the_owner(attacker, owner):
        for routine in called:
            signature = f"pgque.{routine.name}({','.join(routine.types)})"
            if routine.name in skipped or not value(autoconn, may, attacker.info.user, signature):
                continue
            for given in ({"batch_id": batch}, {"batch_id": batch + 1, "queue": "missing"}):
                reached += 1
                try:
                    with attacker.transaction(force_rollback=True):
                        attacker.execute("set local statement_timeout = '10s'")
                        attacker.execute(routine.call(), arguments(routine, **given))
                except psycopg.Error:
                    refused += 1
    definers = {routine.name for routine in called if routine.is_definer}
    assert reached > 2 * len(definers)
    assert refused < reached * 0.75
    record("search_path attack", autoconn, calls=reached, definers=len(definers), attacked=0)


def test_p11_the_whole_street_is_walked_as_ever_under_a_hostile_path(attacker, autoconn):
    """What runs with the caller's own rights may fall into his own traps: so the owner sends."""
    owner = autoconn.info.user
    with nothing_runs_as_the_owner(attacker, owner):
        run = lambda query, *given: value(attacker, f"select pgque.{query}", *given)  # noqa: E731
        assert run("create_queue('q')") == 1
        assert run("register_consumer('q', 'c')") == 1
        assert run("set_queue_config('q', 'max_retries', '1')") == 1
        sent = [run("_insert_event('q', 't', %s, null, null, null, null)", str(n)) for n in "123"]
        assert run("ticker()") == 1
        batch = receive(attacker, "q", "c")
        assert ids(batch) == sent
        assert run("_nack(%s, %s, '0', null)", batch[0].batch_id, sent[0]) == 1
        assert run("finish_batch(%s)", batch[0].batch_id) == 1
        assert run("maint()") == 1
        assert run("ticker('q')") == 3
        again = receive(attacker, "q", "c", merged=True)
        assert ids(again) == sent[:1]
        assert run("_nack(%s, %s, '0', null)", again[0].batch_id, sent[0]) == 1
        assert run("_ack_part(%s, %s)", again[0].batch_id, sent[:1]) == 0
        dead = run("dlq_inspect('q')")
        assert run("dlq_replay(%s)", int(dead.strip("()").split(",")[0])) > sent[-1]
        assert receive_coop(attacker, "q", "g", "m") == []
        run("ticker('q')")
        piece = receive_coop(attacker, "q", "g", "m", merged=True)
        assert len(piece) == 1
        assert run("unregister_subconsumer('q', 'g', 'm', 1)") == 1
        assert run("_seek('q', 'c', 1, null)") == 1
        assert run("next_batch('q', 'c')") == piece[0].batch_id + 2
        assert run("unregister_consumer('q', 'c')") == 1
        assert run("drop_queue('q', true)") == 1


def test_the_traps_are_found_by_a_function_that_is_not_pinned(attacker, autoconn):
    """Else the tests above would prove nothing."""
    autoconn.execute(
        "create function pgque.unpinned(queue text) returns boolean language plpgsql "
        "security definer as $$ begin return octet_length(queue) = 1; end $$; "
        "create function pgque.unpinned_table() returns int language sql "
        "security definer as $$ select 0 from queue union all select 0 limit 1 $$; "
        "grant execute on all functions in schema pgque to pgque_admin"
    )
    heard = notices(attacker)
    value(attacker, "select pgque.unpinned('q')")
    assert any(f"ATTACKED as {autoconn.info.user}" in text for text in heard)
    value(autoconn, "select pgque.create_queue('q')")
    assert value(attacker, "select pgque.unpinned_table()") == 0


def test_p11_what_is_the_callers_own_affair_is_used_by_no_function_of_the_owner(autoconn):
    """send and its like run under the path of whoever calls: his shadows, under his name."""
    own = column(
        autoconn,
        "select distinct proname from pg_proc where pronamespace = 'pgque'::regnamespace "
        "and not prosecdef and proconfig is null and proname !~ '^_'",
    )
    assert {"send", "insert_event", "ack", "nack"} <= set(own)
    users = (
        "select oid::regprocedure::text from pg_proc where pronamespace = 'pgque'::regnamespace "
        f"and (prosecdef or proname ~ '^_') and prosrc ~ 'pgque\\.({'|'.join(own)})\\('"
    )
    assert column(autoconn, users) == []
