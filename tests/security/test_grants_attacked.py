"""Attempts to bypass the grants for single queues, all of which must fail."""

import psycopg
import pytest
from psycopg import sql

from tests.fix_engine import (
    ack,
    column,
    drain,
    payloads,
    receive,
    refused,
    send,
    subscribe,
    tick,
    value,
)
from tests.security.fix_security import Connection, grant, record, user


@pytest.fixture
def attacker(autoconn, queue, new_role, log_in) -> Connection:
    """Return a role with all grants for its own queue and with its own schema."""
    role = new_role(name="attacker")
    value(autoconn, "select pgque.create_queue('theirs')")
    grant(autoconn, role, "theirs", "produce", "consume")
    autoconn.execute(
        sql.SQL("create schema lair authorization {}; grant usage on schema lair to public").format(
            sql.Identifier(role)
        )
    )
    return log_in(role)


STATEMENTS = [
    "update pgque._call set caller = '{app}', called = 'insert_event', "
    "arguments = '{{{queue},t,x}}'",
    "insert into pgque._call (caller, called) values ('{app}', 'insert_event')",
    "delete from pgque._call",
    "truncate pgque._call",
    "create or replace view pgque._call as select '{app}'::text as caller",
    "alter view pgque._call alter column caller set default '{app}'",
    "create trigger first instead of update on pgque._call for each row "
    "execute function pgque._answer()",
    "create function pgque.mine() returns int language sql as 'select 1'",
    "select pgque._answer_producer(row('{app}', 'insert_event', '{{{queue},t,x}}', null, null, "
    "null, null, null)::pgque._call)",
    "select pgque._insert_event('{queue}', 't', 'x', null, null, null, null)",
    "select pgque._append_batch('{queue}', 't', '{{x}}')",
    "select pgque._append_batch('{queue}', 't', '{{x}}', '{{}}')",
    "select pgque._event_1_append(0, 't', 'x', null, null, null, null)",
    "select pgque._append(1, 0, 't', 'x', null, null, null, null)",
    "select * from pgque._open_batch('{queue}', 'mine', 1, false, null)",
    "select pgque.finish_batch(1)",
    "select pgque.next_batch('{queue}', 'mine')",
    "select pgque.get_batch_events(1)",
    "select pgque.dlq_inspect('{queue}')",
    "select pgque.dlq_replay_all('{queue}')",
    "select pgque.grant_queue('{attacker}', '{queue}', 'produce')",
    "select pgque.queue_grants()",
    "grant execute on function pgque._event_1_produce() to {attacker}",
    "create or replace function pgque._event_1_produce() returns void language sql as 'select'",
    "insert into pgque.subscriber_role values (1, '{attacker}')",
    "select * from pgque.subscriber_role",
    "select * from pgque.event_1",
    "select * from pgque.queue",
    "grant pgque_user to {attacker} with admin option",
    "grant pgque_writer to {attacker}",
    "set role {app}",
    "set session authorization {app}",
]


@pytest.mark.parametrize(
    "place", ["directly", "in the attacker's function", "with the attacker's search_path"]
)
def test_no_statement_bypasses_the_grants(
    attacker, autoconn, queue, consumer, new_role, log_in, place
):
    app = new_role(name="app")
    grant(autoconn, app, queue, "produce", "consume")
    subscribe(log_in(app), queue, "mine")
    parts = {"app": app, "attacker": user(attacker), "queue": queue}
    if place == "with the attacker's search_path":
        attacker.execute("set search_path = lair, pg_temp, pg_catalog")
    for statement in STATEMENTS:
        text = statement.format(**parts)
        if place == "in the attacker's function":
            text = f"do $do$ begin execute $x${text}$x$; end $do$"
        with pytest.raises(psycopg.Error) as caught:
            attacker.execute(text.encode())
        assert caught.value.sqlstate in ("42501", "42809", "55000"), (text, caught.value)
    assert drain(autoconn, queue, consumer) == []
    record(f"grants, {place}", autoconn, attacks=len(STATEMENTS), refused=len(STATEMENTS))


def test_the_current_user_counts_whatever_caller_is_named(attacker, autoconn, queue):
    """The attacker tries views, a trigger and session options."""
    attacker.execute("create view lair.over as select * from pgque._call")
    attacker.execute("select set_config('pgque.caller', 'postgres', false)")
    update = f"update %s set called = 'insert_event', arguments = '{{{queue},t,x}}'"
    for view in ("pgque._call", "lair.over"):
        with refused("PQ001", "queue not found"):
            attacker.execute((update % view).encode())
    with refused("22023", "no such call"):
        attacker.execute("update pgque._call set called = 'uninstall'")
    with refused("42501", "permission denied for function"):
        attacker.execute(
            "create view lair.forged as select 'postgres'::text as caller, null::text as called; "
            "create trigger t instead of update on lair.forged for each row "
            "execute function pgque._answer()"
        )


def test_only_the_view_itself_gets_an_answer(attacker, autoconn):
    """Even a trigger that the schema's owner creates on another view is refused."""
    autoconn.execute(
        "create view public.forged as select * from pgque._call; "
        "create trigger t instead of update on public.forged for each row "
        "execute function pgque._answer(); grant all on public.forged to public"
    )
    with refused("42501", "pgque._call"):
        attacker.execute("update public.forged set called = 'get_queue_info'")


def test_a_view_over_the_call_view_does_not_change_the_caller(
    attacker, autoconn, queue, new_role, log_in
):
    """The view's owner provides the rights on the relation, but the caller is the current user."""
    attacker.execute("create view lair.over as select * from pgque._call")
    attacker.execute("grant select, update on lair.over to public")
    nobody = log_in(new_role())
    with refused("PQ001", "queue not found"):
        nobody.execute("update lair.over set called = 'insert_event', arguments = '{theirs,t,x}'")


def test_the_owner_of_a_security_definer_function_is_the_caller(
    attacker, autoconn, queue, consumer, new_role, log_in
):
    """The role that calls the function neither lends its grants nor needs any."""
    app = new_role(name="app")
    grant(autoconn, app, queue, "produce")
    for name in (queue, "theirs"):
        attacker.execute(
            sql.SQL(
                "create function lair.{}() returns bigint language sql security definer "
                "as $$ select pgque.send({}, 'x'::text) $$"
            ).format(sql.Identifier(name), name)
        )
    for conn in (log_in(app), log_in(new_role("pgque_writer")), autoconn):
        with refused("PQ001", "queue not found"):
            conn.execute(sql.SQL("select lair.{}()").format(sql.Identifier(queue)))
    nobody = log_in(new_role())
    subscribe(attacker, "theirs", "own")
    nobody.execute("select lair.theirs()")
    assert drain(autoconn, queue, consumer) == []
    tick(autoconn, "theirs")
    assert payloads(receive(attacker, "theirs", "own")) == ["x"]


def test_a_wrapper_of_a_global_role_works_for_any_caller(
    autoconn, queue, consumer, new_role, log_in
):
    """The caller of the wrapper needs no rights in pgque, just as without grants."""
    owner = new_role("pgque_writer", "pgque_reader", name="owner")
    autoconn.execute(
        sql.SQL(
            "create schema api authorization {0}; set role {0}; "
            "create function api.send(text) returns bigint language sql security definer "
            "as $$ select pgque.send($1, 'x'::text) $$; "
            "create function api.take(text, text) returns setof pgque.message language sql "
            "security definer as $$ select * from pgque.receive($1, $2) $$; "
            "create function api.ack(bigint) returns int language sql security definer "
            "as $$ select pgque.ack($1) $$; "
            "grant usage on schema api to public; reset role"
        ).format(sql.Identifier(owner))
    )
    for caller in (log_in(new_role()), log_in(new_role("pgque_user"))):
        caller.execute("select api.send(%s)", [queue])
        tick(autoconn, queue)
        batch = caller.execute("select * from api.take(%s, %s)", [queue, consumer]).fetchall()
        assert len(batch) == 1
        assert value(caller, "select api.ack(%s)", batch[0][1]) == 1


def test_a_prepared_statement_is_checked_again_for_another_role(
    attacker, autoconn, queue, consumer, new_role
):
    """A pooler's session changes roles while its plans stay."""
    writer = new_role("pgque_writer", "pgque_reader", name="writer")
    roles = {"writer": writer, "attacker": user(attacker)}
    autoconn.execute("prepare s(text) as select pgque.send($1, 'x'::text)")
    autoconn.execute("prepare r(text) as select count(*) from pgque.receive($1, 'c')")
    subscribe(autoconn, queue, "c")
    for _ in range(8):
        for name, role in roles.items():
            autoconn.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
            for statement in ("s", "r"):
                query = f"execute {statement}('{queue}')".encode()
                if name == "writer":
                    autoconn.execute(query)
                else:
                    with refused("PQ001", "queue not found"):
                        autoconn.execute(query)
            autoconn.execute("reset role")
    assert len(drain(autoconn, queue, consumer)) == 8


def test_a_guessed_batch_id_is_useless(attacker, autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    assert [ack(attacker, number) for number in range(1, batch[0].batch_id + 3)] == [0] * (
        batch[0].batch_id + 2
    )
    assert column(attacker, "select current_batch from pgque.get_consumer_info()") == []
    assert receive(autoconn, queue, consumer) == batch
