"""A database that moves: by dump and restore, pg_upgrade, or promotion of a replica.

Work in progress continues after the move. Nothing is lost and nothing is delivered twice.
"""

import psycopg
import pytest

from pgque.install import install
from tests.fix_engine import LONG
from tests.recording import record
from tests.running import eventually
from tests.upgrade.backlog import Backlog
from tests.upgrade.cluster import Cluster
from tests.upgrade.conftest import has_15

ROLES = ("pgque_writer", "pgque_reader", "pgque_admin", "pgque_user")


def note(conn: psycopg.Connection, part: str, figures: dict[str, int]) -> None:
    record(conn, "upgrades", part, "tests/upgrade/test_move.py", figures)


def use_up_transaction_ids(conn: psycopg.Connection, count: int) -> None:
    conn.execute(
        f"do $$ begin for n in 1 .. {count} loop "
        "perform pg_current_xact_id(); commit; end loop; end $$"
    )


def restore(source: Cluster, target: Cluster, *, format_: str) -> psycopg.Connection:
    """Dump with the source's programs and restore with the target's."""
    dump = target.folder / "dump"
    dump.write_bytes(b"")
    dump.chmod(0o666)
    source.run("pg_dump", f"--format={format_}", f"--file={dump}", source.dsn("origin"))
    with target.connect() as admin:
        for role in ROLES:
            admin.execute(
                f"do $$ begin create role {role}; "
                "exception when duplicate_object then null; end $$".encode()
            )
        admin.execute("create database restored")
    into = f"--dbname={target.dsn('restored')}"
    if format_ == "custom":
        target.run("pg_restore", "--exit-on-error", into, dump)
    else:
        target.run("psql", "-v", "ON_ERROR_STOP=1", "-q", into, "-f", dump)
    return target.connect("restored")


slow = pytest.mark.skipif(not LONG, reason="similar to the others: PGQUE_LONG=1 runs it")


@pytest.mark.parametrize(
    ("old", "new", "format_"),
    [
        pytest.param(15, 18, "plain", marks=has_15),
        pytest.param(15, 18, "custom", marks=[has_15, slow]),
        pytest.param(15, 15, "plain", marks=[has_15, slow]),
        pytest.param(15, 15, "custom", marks=[has_15, slow]),
        pytest.param(16, 18, "plain", marks=slow),
        pytest.param(16, 18, "custom"),
    ],
)
def test_p2_p3_work_continues_after_a_dump_and_restore_in_a_new_cluster(
    new_cluster, old, new, format_
):
    source = new_cluster("old", old).init().start()
    target = new_cluster("new", new).init().start()
    with source.connect() as admin:
        use_up_transaction_ids(admin, 5000)
        admin.execute("create database origin")
    install(source.dsn("origin"))
    backlog = Backlog(source.dsn("origin"))
    backlog.prepare("prepared, not in the dump")
    conn = restore(source, target, format_=format_)
    backlog.leave()
    with conn:
        note(conn, f"pg_dump {old} to {new}, {format_}", backlog.check(conn))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (16, 18),
        pytest.param(15, 18, marks=[has_15, slow]),
        pytest.param(15, 16, marks=[has_15, slow]),
    ],
)
def test_p2_p3_work_continues_after_pg_upgrade(new_cluster, before, after):
    old = new_cluster("old", before).init().start()
    # pg_upgrade needs the same checksum setting. Only 18 enables checksums by default.
    new = new_cluster("new", after).init(*["--no-data-checksums"] * (after >= 18))
    with old.connect() as admin:
        use_up_transaction_ids(admin, 5000)
    install(old.dsn())
    backlog = Backlog(old.dsn())
    backlog.leave()
    old.stop()
    new.run(
        "pg_upgrade", "-b", old.programs, "-B", new.programs, "-d", old.data, "-D", new.data,
        "-U", "postgres", "-s", new.folder,
    )  # fmt: skip
    new.start()
    with new.connect() as conn:
        note(conn, f"pg_upgrade {before} to {after}", backlog.check(conn))


@pytest.mark.parametrize("version", [pytest.param(15, marks=[has_15, slow]), None])
def test_p2_p3_work_continues_on_a_promoted_replica(new_cluster, version):
    """One transaction is prepared before the promotion and committed after it."""
    primary = new_cluster("primary", version).init().start()
    install(primary.dsn())
    backlog = Backlog(primary.dsn())
    standby = new_cluster("standby", version)
    standby.run("pg_basebackup", "-d", primary.dsn(), "-D", standby.data, "-c", "fast", "-R")
    standby.start()
    sent = backlog.prepare("prepared before, committed after")
    backlog._send(backlog.conn, "streamed")
    here = backlog.conn.execute("select pg_current_wal_lsn()").fetchone()[0]
    with standby.connect() as conn:
        replayed = "select pg_last_wal_replay_lsn() >= %s"
        eventually(
            lambda: conn.execute(replayed, [here]).fetchone()[0], "replication to the standby"
        )
    primary.stop("immediate")  # while a transaction that has sent is open
    backlog.leave()
    standby.run("pg_ctl", "-D", standby.data, "-w", "promote")
    with standby.connect() as conn:
        conn.execute("commit prepared 'prepared before, committed after'")
        given = backlog.check(conn, {sent: "prepared before, committed after"})
        note(conn, f"promoted replica {conn.info.server_version // 10000}", given)
