"""SQL in every text that a caller passes: pgque treats it as a name or a value, never as SQL."""

import psycopg
import pytest
from psycopg import sql

from pgque import Consumer, Message
from tests.fix_engine import (
    LONG,
    Connection,
    ack,
    drain,
    ids,
    nack,
    payloads,
    receive,
    receive_coop,
    refused,
    rotate,
    rotate_ledger,
    send,
    subscribe,
    tick,
    value,
)
from tests.running import PATIENCE, eventually, running
from tests.security.calls import arguments, routines
from tests.security.fix_security import grant, record

DROP = "drop table public.victim"
ATTACKS = [
    f"'; {DROP}; --",
    f'"; {DROP}; --',
    f"$$; {DROP}; $$",
    f"$body$; {DROP}; $body$",
    f"\\'; {DROP}; --",
    f"') ; {DROP}; --",
    "%s%I%L%1$s%n",
    "\\",
    "a\nb\r\t\x01\x7f",
    "\u02bc\uff07'\u2019\u2028\u202e\U0001f600",
    '{x,NULL,"}',
    "(1,2)",
    f"pgque_q' union select {DROP} --",
]
# Errors that show that a text was parsed as SQL: a syntax error or an unknown name.
AS_SQL = ("42601", "42P01", "42883", "42703", "42P02", "42704", "42602", "42622", "3F000")


@pytest.fixture
def victim(autoconn: Connection) -> Connection:
    autoconn.execute("create table public.victim (id int); insert into public.victim values (1)")
    return autoconn


@pytest.mark.parametrize("name", [attack for attack in ATTACKS if len(attack.encode()) <= 57])
def test_a_queue_may_have_any_name(shared, name):
    victim = shared
    victim.execute("create table if not exists public.victim as select 1 as id")
    consumer = name
    assert value(victim, "select pgque.create_queue(%s)", name) == 1
    victim.execute(sql.SQL("listen {}").format(sql.Identifier(f"pgque_{name}")))
    subscribe(victim, name, consumer)
    sent = [
        value(victim, "select pgque.insert_event(%s, %s, %s, %s, %s, %s, %s)", name, *[name] * 6),
        *value(victim, "select pgque.send_batch(%s, %s, %s::text[])", name, name, [name]),
    ]
    tick(victim, name)
    assert [n.channel for n in victim.notifies(timeout=PATIENCE, stop_after=1)] == [f"pgque_{name}"]
    batch = receive(victim, name, consumer)
    assert ids(batch) == sent
    assert payloads(batch) == [name, name]
    assert batch[0][6:] == (name,) * 4
    victim.execute("unlisten *")
    nack(victim, batch[0], "0", name)
    assert ack(victim, batch) == 1
    value(victim, "select pgque.maint()")
    assert len(drain(victim, name, consumer)) == 1
    assert len(receive_coop(victim, name, "g", name.replace(".", ""))) == 0
    assert rotate(victim, name) == 1
    assert rotate_ledger(victim)
    assert value(victim, "select count(*) from pgque.get_consumer_info(%s)", name) == 3
    assert value(victim, "select queue_name from pgque.get_queue_info(%s)", name) == name
    assert value(victim, "select pgque.drop_queue(%s, true)", name) == 1
    assert value(victim, "select id from public.victim") == 1


def test_sql_in_text_arguments_of_every_function_is_never_run(victim):
    """The functions come from the catalog, and the owner calls them."""
    for name in ("q", "r"):
        value(victim, "select pgque.create_queue(%s)", name)
    subscribe(victim, "q", "c")
    send(victim, "q")
    tick(victim, "q")
    batch = receive(victim, "q", "c")[0].batch_id
    tried = 0
    faults = []
    for routine in routines(victim):
        if routine.name.startswith("_") or routine.name == "ticker_loop":
            continue
        made = arguments(routine, batch_id=batch)
        for place, kind in enumerate(routine.types):
            if kind not in ("text", "text[]") or routine.names[place] == "extra_where":
                continue
            for attack in ATTACKS if LONG else ATTACKS[:6]:
                given = list(made)
                given[place] = attack if kind == "text" else [attack]
                tried += 1
                try:
                    with victim.transaction(force_rollback=True):
                        victim.execute(routine.call(), given)
                except psycopg.Error as error:
                    role = routine.names[place] == "role" and error.sqlstate == "42704"
                    if error.sqlstate in AS_SQL and not role:
                        faults.append((routine.name, routine.names[place], attack, str(error)))
    assert faults == []
    assert tried > 60 * 6
    assert value(victim, "select id from public.victim") == 1
    record("SQL in text arguments", victim, attacks=tried, run=0)


def test_sql_in_the_calls_of_a_role_with_grants_is_never_run(victim, queue, new_role, log_in):
    role = new_role()
    grant(victim, role, queue, "produce", "consume")
    app = log_in(role)
    calls = "|".join(
        (
            "insert_event|send_batch|receive|receive_merged|seek|unsubscribe|subscribe|ack|nack",
            "unsubscribe_subconsumer|touch_subconsumer|subscribe_subconsumer|receive_coop",
            "receive_coop_merged|ack_or_fail|ack_part|nack_many|get_queue_info|get_consumer_info",
            "get_queue_wait|get_consumer_wait",
        )
    ).split("|")
    for attack in ATTACKS:
        for call in (*calls, attack):
            for place in range(5) if LONG else (0, 1):
                texts = [queue, "c", "1", "1", "1"]
                texts[place] = attack
                try:
                    app.execute(
                        "update pgque._call set called = %s, arguments = %s, texts = %s",
                        [call, texts, [attack]],
                    )
                except psycopg.Error as error:
                    assert error.sqlstate not in AS_SQL, (call, attack, error)
    assert value(victim, "select id from public.victim") == 1


def test_extra_where_is_sql_for_the_admin_only_and_runs_with_the_admins_rights(
    victim, queue, consumer, new_role, log_in
):
    send(victim, queue)
    tick(victim, queue)
    batch = receive(victim, queue, consumer)[0].batch_id
    call = "select ev_data from pgque.get_batch_cursor(%s, 'c', 1, %s)"
    admin = log_in(new_role("pgque_admin"))
    with admin.transaction():
        assert value(admin, call, batch, "current_user <> 'postgres'") == "x"
    for text in (f"true); {DROP}; --", "(select count(*) from public.victim) > 0"):
        with pytest.raises(psycopg.Error) as caught:
            admin.execute(call, [batch, text])
        assert caught.value.sqlstate in ("42501", "42601", "42P11")
    for group in ("pgque_reader", "pgque_writer", "pgque_user"):
        conn = log_in(new_role(group))
        with refused("42501", "permission denied for function get_batch_cursor"):
            conn.execute(call, [batch, "true"])
    assert value(victim, "select id from public.victim") == 1


def test_only_these_functions_run_dynamic_sql(shared):
    """A function with a new dynamic statement must be reviewed and added here."""
    dynamic = (
        "select distinct regexp_replace(proname, '^_event_\\d+_', '_event_') from pg_proc "
        "where pronamespace = 'pgque'::regnamespace and prosrc ~* '\\mexecute\\M' "
        "and prosrc ~* '\\m(execute|return query execute|for execute)\\M\\s'"
    )
    found = {row[0] for row in shared.execute(dynamic).fetchall()}
    sql_of_the_callers = {"get_batch_cursor", "_capture", "_capture_row", "_capture_values"}
    names_from_ids = {
        *("create_queue", "drop_queue", "set_queue_config", "_append_batch", "_append_retries"),
        *(
            "_make_log",
            "_make_log_function",
            "_make_log_functions",
            "_drop_log_functions",
            "_make_append",
            "_append",
            "_events",
        ),
        *("_holds_events", "_cut", "_batch_event", "_messages_sql", "receive", "receive_merged"),
        *("receive_coop", "receive_coop_merged", "_log_has_unseen", "_lock_briefly"),
        *("_truncate_child", "_copy_ledger", "maint_rotate_ledger", "_rebase_ticks"),
        *("_make_force_sequence", "_retry_unseen_redeliveries", "status", "_unticked_for"),
        *("grant_queue", "revoke_queue", "_grant_log", "_turn_off_row_security"),
        *("_advance_event_ids", "_make_history_sequence", "_report_lost_events"),
        *("_make_put_back_counter", "_own_put_back"),
    }
    assert sql_of_the_callers <= found
    assert found <= sql_of_the_callers | names_from_ids, found


@pytest.mark.parametrize("attack", ATTACKS if LONG else ATTACKS[:6])
def test_trigger_arguments_except_expressions_are_names(victim, queue, attack):
    """Expressions do run, because the owner of the table wrote them: see the next test."""
    victim.execute("create table public.item (id int primary key)")
    trigger = "create trigger t after insert on public.item for each row execute function "
    for argument in (attack, f"ignore={attack}", f"pkey={attack}"):
        for function in ("jsontriga", "logutriga", "sqltriga"):
            victim.execute(
                sql.SQL(trigger + "pgque.{}({}, {})").format(
                    sql.Identifier(function), queue, argument
                )
            )
            with refused("22023", "trigger argument"):
                victim.execute("insert into public.item values (1)")
            victim.execute("drop trigger t on public.item")
    victim.execute(sql.SQL(trigger + "pgque.jsontriga({})").format(attack))
    with refused("PQ001", "queue not found"):
        victim.execute("insert into public.item values (1)")
    assert value(victim, "select id from public.victim") == 1


def test_a_trigger_expression_runs_with_the_rights_of_the_role_that_changes_the_table(
    victim, queue, new_role, log_in
):
    owner = new_role("pgque_writer", name="owner")
    conn = log_in(owner)
    victim.execute(sql.SQL("create schema theirs authorization {}").format(sql.Identifier(owner)))
    conn.execute("create table theirs.item (id int primary key)")
    conn.execute(
        sql.SQL(
            "create trigger t after insert on theirs.item for each row execute function "
            "pgque.jsontriga({}, 'ev_type=(select id from public.victim)')"
        ).format(queue)
    )
    with refused("42501", "permission denied for table victim"):
        conn.execute("insert into theirs.item values (1)")


def test_names_and_values_with_quotes_reach_a_handler(victim, dsn, queue):
    name = f"it's {ATTACKS[0]}"
    value(victim, "select pgque.create_queue(%s)", name)
    subscribe(victim, name, name)
    got: list[Message] = []
    consumer = Consumer(dsn, queue=name, name=name)
    consumer.on("*")(got.append)
    with running(consumer):
        value(victim, "select pgque.send(%s, %s, %s::text)", name, name, name)
        eventually(lambda: len(got) == 1)
    assert (got[0].type, got[0].payload) == (name, name)
    assert value(victim, "select id from public.victim") == 1
