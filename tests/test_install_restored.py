"""A schema restored in part: without its data, or without owners and grants."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import pgque
from pgque import PgqueSchemaMissing
from pgque.doctor import Status, examine
from pgque.embedded.binaries import find_binaries
from pgque.install import check_schema, install, schema_version, upgrade
from tests.fix_cli import cli, failed
from tests.fix_engine import (
    Connection,
    ack,
    drain,
    ids,
    nack,
    payloads,
    receive,
    rotate,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)

Copy = Callable[..., str]


@pytest.fixture
def origin(direct_dsn: str) -> Iterator[Connection]:
    """A connection to a database in which a consumer has done part of its work."""
    with psycopg.connect(direct_dsn, autocommit=True) as conn:
        value(conn, "select pgque.create_queue('q')")
        subscribe(conn, "q", "c")
        send_many(conn, "q", 4)
        settle(conn, "q")
        batch = receive(conn, "q", "c", 2)
        nack(conn, batch[0])
        ack(conn, batch)
        yield conn


@pytest.fixture
def copy(databases, origin: Connection, tmp_path: Path) -> Iterator[Copy]:
    """Dump the database with the given options and restore it into an empty or given database."""
    made: list[str] = []

    # From version 17 on, pg_restore sets parameters that an older server does not know.
    programs = find_binaries(18 if origin.info.server_version >= 170000 else 16).bin

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(programs / program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def copy(*options: str, into: str | None = None) -> str:
        file = tmp_path / "dump"
        done = run("pg_dump", "--format=custom", f"--file={file}", f"--dbname={origin.info.dsn}")
        assert done.returncode == 0, done.stderr
        if into is None:
            into = databases.create()
            made.append(into)
        done = run("pg_restore", "--exit-on-error", *options, f"--dbname={into}", file)
        assert done.returncode == 0, done.stderr
        return into

    yield copy
    for dsn in made:
        databases.drop(dsn)


def test_every_command_names_install_after_a_schema_only_restore(copy):
    dsn = copy("--schema-only")
    assert schema_version(dsn) is None
    with pytest.raises(PgqueSchemaMissing, match="restored without its data"):
        check_schema(dsn)
    with pytest.raises(PgqueSchemaMissing, match="pgque install"):
        upgrade(dsn)
    with pytest.raises(PgqueSchemaMissing, match="pgque install"):
        pgque.connect(dsn)
    for command in (["ticker"], ["upgrade"], ["queue", "create", "q"]):
        assert "pgque install" in failed(cli(*command, "--dsn", dsn))
    last = list(examine(dsn))[-1]
    assert (last.check, last.status, last.mend) == ("schema", Status.FAULT, "pgque install")


def test_install_completes_a_schema_only_restore(copy):
    dsn = copy("--schema-only")
    assert install(dsn) == 1
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert value(conn, "select pgque.create_queue('q')") == 1
        assert value(conn, "select queue_id from pgque.queue") == 2  # event_1 was restored
        subscribe(conn, "q", "c")
        sent = send_many(conn, "q", 3)
        assert ids(drain(conn, "q", "c")) == sent
        value(conn, "select pgque.maint()")
        assert value(conn, "select pgque.drop_queue('q', true)") == 1


GRANTS = """
    select c.oid::regclass::text, a.grantee::regrole::text, a.privilege_type
    from pg_class c, aclexplode(c.relacl) a
    where c.relnamespace = 'pgque'::regnamespace and a.grantee <> c.relowner
    union all
    select p.oid::regprocedure::text, a.grantee::regrole::text, a.privilege_type
    from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where p.pronamespace = 'pgque'::regnamespace and a.grantee <> p.proowner
    union all
    select t.oid::regtype::text, a.grantee::regrole::text, a.privilege_type
    from pg_type t, aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) a
    where t.typnamespace = 'pgque'::regnamespace and a.grantee <> t.typowner
        and t.typelem = 0
    union all
    select n.oid::regnamespace::text, a.grantee::regrole::text, a.privilege_type
    from pg_namespace n, aclexplode(n.nspacl) a
    where n.nspname = 'pgque' and a.grantee <> n.nspowner
    order by 1, 2, 3
"""


def test_install_restores_the_grants_that_a_dump_left_out(copy, origin):
    dsn = copy("--no-owner", "--no-acl")
    with psycopg.connect(dsn, autocommit=True) as conn:
        before = conn.execute(GRANTS).fetchall()
        wanted = origin.execute(GRANTS).fetchall()
        assert before != wanted
        install(conn)
        assert conn.execute(GRANTS).fetchall() == wanted
        conn.execute("set role pgque_reader")
        assert value(conn, "select count(*) from pgque.event_1") == 4


def test_p1_p3_data_can_be_restored_after_the_structure(copy):
    dsn = copy("--schema-only")
    copy("--data-only", into=dsn)
    install(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        young = send(conn, "q", "young")
        value(conn, "select pgque.maint()")
        settle(conn, "q")
        assert sorted(ids(drain(conn, "q", "c"))) == [1, 3, 4, young]
        rotate(conn, "q")
        assert payloads(drain(conn, "q", "c")) == []
        send(conn, "q", "younger")
        tick(conn, "q")
        assert payloads(drain(conn, "q", "c")) == ["younger"]


def test_data_can_be_restored_after_install_completed_the_structure(copy):
    dsn = copy("--schema-only")
    install(dsn)
    copy("--data-only", into=dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        value(conn, "select pgque.maint()")
        settle(conn, "q")
        assert sorted(ids(drain(conn, "q", "c"))) == [1, 3, 4]
        assert value(conn, "select count(*) from pgque.config") == 1
