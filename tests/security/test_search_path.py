"""An attacker's objects on the search path, which an unqualified name in the schema would find.

The attacker has every right except the owner's, plus a schema and temporary objects. The attacker's
operators, functions, aggregates, types and tables report the role that runs them. Running as the
attacker is harmless; running as the owner would be a privilege escalation.
"""

import contextlib
import re
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.fix_engine import (
    LONG,
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

SHADOWS = Path(__file__).with_name("shadows.sql").read_text()
PATHS = ("lair, pg_temp, pg_catalog, pgque", "pg_temp, lair, pgque, pg_catalog")


@pytest.fixture(params=PATHS if LONG else PATHS[:1])
def attacker(request, autoconn, new_role, log_in) -> Connection:
    """Return a connection of an admin whose own objects come first on the search path."""
    role = new_role("pgque_admin", name="attacker")
    autoconn.execute(sql.SQL("create schema lair authorization {}").format(sql.Identifier(role)))
    conn = log_in(role)
    conn.execute(SHADOWS.encode())
    made = "select count(*) from pg_proc where pronamespace = 'lair'::regnamespace"
    assert value(autoconn, made) > 300
    conn.execute(f"set search_path = {request.param}".encode())
    return conn


@contextlib.contextmanager
def nothing_runs_as_the_owner(conn: Connection, owner: str):
    heard = notices(conn)
    yield heard
    attacks = [text for text in heard if re.search(rf"ATTACKED as {owner}\b", text)]
    assert attacks == []


def test_p11_no_function_runs_foreign_code_with_its_rights(attacker, autoconn):
    owner = autoconn.info.user
    value(autoconn, "select pgque.create_queue('q')")
    subscribe(autoconn, "q", "c")
    send(autoconn, "q", "one")
    tick(autoconn, "q")
    batch = receive(autoconn, "q", "c")[0].batch_id
    called = routines(autoconn)
    may = "select has_function_privilege(%s, %s::regprocedure, 'execute')"
    reached = refused = 0
    skipped = ("ticker_loop", "drop_queue")  # one never returns, the other drops the queue
    with nothing_runs_as_the_owner(attacker, owner):
        for routine in called:
            signature = f"pgque.{routine.name}({','.join(routine.types)})"
            if routine.name in skipped or not value(autoconn, may, attacker.info.user, signature):
                continue
            for given in ({"batch_id": batch}, {"batch_id": batch + 1, "queue": "missing"})[
                : 1 + LONG
            ]:
                reached += 1
                try:
                    with attacker.transaction(force_rollback=True):
                        attacker.execute("set local statement_timeout = '3s'")
                        attacker.execute(routine.call(), arguments(routine, **given))
                except psycopg.Error:
                    refused += 1
    definers = {routine.name for routine in called if routine.is_definer}
    assert reached > len(definers)
    assert refused < reached * 0.75
    record("search_path attack", autoconn, calls=reached, definers=len(definers), attacked=0)


def test_p11_all_calls_work_as_usual_with_a_hostile_search_path(attacker, autoconn):
    """Functions with the caller's rights may call the traps, so `_insert_event` sends instead."""
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
        assert run("next_batch('q', 'c')") == piece[0].batch_id + 1
        assert run("unregister_consumer('q', 'c')") == 1
        assert run("drop_queue('q', true)") == 1


def test_a_function_without_a_pinned_search_path_calls_the_traps(attacker, autoconn):
    """Otherwise the tests above would prove nothing."""
    autoconn.execute(
        "create function pgque.unpinned(queue text) returns boolean language plpgsql "
        "security definer as $$ begin return octet_length(queue) = 1; end $$; "
        "grant execute on all functions in schema pgque to pgque_admin"
    )
    heard = notices(attacker)
    value(attacker, "select pgque.unpinned('q')")
    assert any(f"ATTACKED as {autoconn.info.user}" in text for text in heard)


def test_p11_no_function_of_the_owner_calls_one_with_the_callers_search_path(autoconn):
    """send and similar functions use the caller's search path, so they may call its traps."""
    own = column(
        autoconn,
        "select distinct proname from pg_proc where pronamespace = 'pgque'::regnamespace "
        "and not prosecdef and proconfig is null and proname !~ '^_'",
    )
    assert {"send", "insert_event", "ack", "nack"} <= set(own)
    called = rf"(perform|:=|select|return|from|=)\s+pgque\.({'|'.join(own)})\("
    users = (
        "select proname from pg_proc where pronamespace = 'pgque'::regnamespace "
        "and (prosecdef or proname ~ '^_') and prosrc ~ %s"
    )
    # Capture triggers run with the rights of the role that changes the table.
    assert column(autoconn, users, called) == ["_capture"]
