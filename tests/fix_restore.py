"""A database with pgque in one cluster, and its dump restored in a younger cluster."""

import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgque.embedded import VERSIONS, Server
from pgque.install import install
from tests.fix_engine import Connection, subscribe, value
from tests.fix_server import embedded_server, wanted_version


def use_up_transaction_ids(dsn: str, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            f"do $$ begin for n in 1 .. {count} loop "
            "perform pg_current_xact_id(); commit; end loop; end $$"
        )


def transaction_id(conn: Connection) -> int:
    return value(conn, "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")


@pytest.fixture(scope="module")
def young_server(own_server: Server) -> Iterator[Server]:
    version = wanted_version() if wanted_version() in VERSIONS else None
    with embedded_server(version=version) as server:
        yield server


@pytest.fixture
def old(own_server: Server, young_server: Server) -> Iterator[Connection]:
    """A database with pgque, autocommit, in a cluster 3,000 transactions older than the other."""
    with (
        psycopg.connect(own_server.dsn, autocommit=True) as admin,
        psycopg.connect(young_server.dsn, autocommit=True) as young,
    ):
        use_up_transaction_ids(own_server.dsn, transaction_id(young) + 3000 - transaction_id(admin))
        admin.execute("create database origin")
    dsn = own_server.dsn_for("origin")
    install(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        value(conn, "select pgque.create_queue('q')")
        subscribe(conn, "q", "c")
        yield conn
    with psycopg.connect(own_server.dsn, autocommit=True) as admin:
        admin.execute("drop database origin with (force)")


@pytest.fixture
def restore(
    own_server: Server, young_server: Server, home: Path, old: Connection
) -> Iterator[Callable[..., Connection]]:
    """Dump the old database, restore it in the young cluster, and return a connection to it."""
    opened: list[Connection] = []

    def run(server: Server, program: str, *arguments: str) -> None:
        command = [str(server.bin_dir / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def restore(
        *options: str, server: Server = young_server, dump_options: Iterable[str] = ()
    ) -> Connection:
        dump = str(home / "dump")
        origin = own_server.dsn_for("origin")
        run(own_server, "pg_dump", "--format=custom", f"--file={dump}", *dump_options, origin)
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            for role in ("pgque_writer", "pgque_reader", "pgque_admin", "pgque_user", "shop"):
                admin.execute(
                    f"do $$ begin create role {role}; "
                    "exception when duplicate_object then null; end $$".encode()
                )
            admin.execute("drop database if exists restored with (force)")
            admin.execute("create database restored")
        dsn = server.dsn_for("restored")
        run(server, "pg_restore", "--exit-on-error", *options, f"--dbname={dsn}", dump)
        conn = psycopg.connect(dsn, autocommit=True)
        opened.append(conn)
        return conn

    yield restore
    for conn in opened:
        conn.close()
