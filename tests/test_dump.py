"""`pgque dump` locks the tables, takes the snapshot, and then runs pg_dump."""

import os
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import pgque
from pgque.dump import consistent_snapshot, dump
from pgque.embedded.binaries import find_binaries
from tests.fix_cli import cli, failed
from tests.fix_engine import Thread, column, rotate, rotate_ledger, send, tick, value
from tests.running import eventually

PG_DUMP = str(find_binaries(18).bin / "pg_dump")


@pytest.fixture
def shown(tmp_path: Path) -> str:
    """A stand-in for pg_dump that prints its arguments."""
    program = tmp_path / "shown"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "print(*sys.argv[1:], os.environ.get('PGPASSWORD'), sep='\\n')\nsys.exit(3)\n"
    )
    program.chmod(0o755)
    return str(program)


def test_the_command_passes_options_to_pg_dump(dsn, queue, autoconn, tmp_path):
    send(autoconn, queue, "in the dump")
    file = tmp_path / "dump.sql"
    done = cli("dump", "--dsn", dsn, "--pg-dump", PG_DUMP, "--schema=pgque", f"--file={file}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "in the dump" in file.read_text()
    short = cli("dump", "--dsn", dsn, "--pg-dump", PG_DUMP, "-s", "-n", "pgque")
    assert "CREATE TABLE pgque.event_1 (" in short.stdout
    assert "\nCOPY " not in short.stdout


def test_the_password_is_not_an_argument_and_pg_dumps_status_is_returned(dsn, shown):
    done = cli("dump", "--dsn", make_conninfo(dsn, password="secret"), "--pg-dump", shown, "-Fc")
    assert done.returncode == 3
    snapshot, option, where, password = done.stdout.splitlines()
    assert snapshot.startswith("--snapshot=")
    assert option == "-Fc"
    assert where.startswith("--dbname=")
    assert "secret" not in where
    assert password == "secret"


def test_failures_are_one_line_of_error(dsn, empty_dsn):
    assert "nosuch is not installed here" in failed(cli("dump", "--dsn", dsn, "--pg-dump=nosuch"))
    assert "pgque install" in failed(cli("dump", "--dsn", empty_dsn, "--pg-dump", PG_DUMP))
    with pytest.raises(pgque.PgqueConnectionError):
        dump("host=127.0.0.1 port=1 connect_timeout=2", program=PG_DUMP)


def test_a_role_without_read_access_gets_an_error(dsn, autoconn, connect):
    role = f"dumper_{os.getpid()}"
    autoconn.execute(f"create role {role} login")
    try:
        with pytest.raises(pgque.PgquePermissionDenied):
            dump(make_conninfo(dsn, user=role), program=PG_DUMP)
    finally:
        autoconn.execute(f"drop role {role}")


def test_rotation_waits_for_the_end_of_the_dump_but_sends_do_not(dsn, queue, consumer, autoconn):
    for _ in range(2):
        send(autoconn, queue)
        tick(autoconn, queue)
    autoconn.execute("select pgque.seek(%s, %s, 3)", [queue, consumer])
    with consistent_snapshot(dsn) as snapshot:
        for _ in range(4):
            rotate(autoconn, queue)
        assert not rotate_ledger(autoconn)
        send(autoconn, queue)
        with psycopg.connect(dsn) as reader:
            reader.execute("set transaction isolation level repeatable read")
            reader.execute(f"set transaction snapshot '{snapshot}'")
            assert value(reader, "select count(*) from pgque.event_1") == 2
            assert value(reader, "select max(tick_id) from pgque.tick") == 3
    for _ in range(4):
        rotate(autoconn, queue)
    assert rotate_ledger(autoconn)


def test_a_queue_created_while_the_dump_waits_is_locked_too(dsn, queue, connect):
    holder, other = connect(), connect(autocommit=True)
    holder.execute("lock table pgque.event_1 in access exclusive mode")
    locked: list[str] = []

    def hold() -> None:
        with consistent_snapshot(dsn):
            names = "select c.relname from pg_locks l join pg_class c on c.oid = l.relation"
            locked.extend(column(other, f"{names} where l.mode = 'AccessShareLock'"))

    thread = Thread(hold)
    waits = "select count(*) > 0 from pg_locks where not granted"
    eventually(lambda: value(other, waits), "the dump to block")
    value(other, "select pgque.create_queue('second')")
    holder.commit()
    thread.outcome()
    assert {"event_1_0", "event_2_0", "tick_1", "cursor_0"} <= set(locked)


def test_a_queue_dropped_while_the_dump_waits_is_left_out(dsn, queue, connect):
    value(connect(autocommit=True), "select pgque.create_queue('second')")
    dropping = connect()
    value(dropping, "select pgque.drop_queue('second', true)")
    watch = connect(autocommit=True)

    def hold() -> str:
        with consistent_snapshot(dsn) as snapshot:
            return snapshot

    thread = Thread(hold)
    eventually(lambda: value(watch, "select count(*) > 0 from pg_locks where not granted"))
    dropping.commit()
    assert thread.outcome()
