"""A pg_dump held between its snapshot and its locks while the log and the ledger rotate."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgque.doctor import Status, examine
from pgque.dump import dump
from pgque.install import install
from tests.fix_engine import (
    Connection,
    Thread,
    ack,
    column,
    drain,
    ids,
    nack,
    notices,
    receive,
    receive_coop,
    rotate,
    rotate_ledger,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)
from tests.fix_server import temporary_in, wanted_version
from tests.running import eventually
from tests.upgrade.cluster import Cluster
from tests.upgrade.test_move import ROLES, use_up_transaction_ids

GROUP = "select pgque.register_subconsumer('q', 'g', %s)"


@pytest.fixture(scope="module")
def clusters() -> Iterator[list[Cluster]]:
    """Return two clusters; the old one has used thousands of transaction ids more."""
    known = wanted_version() if wanted_version() in (15, 16, 18) else 18
    with tempfile.TemporaryDirectory(prefix="pgque-test-", dir=temporary_in()) as home:
        Path(home).chmod(0o711)
        made = [Cluster(known, Path(home), name).init() for name in ("old", "new")]
        for cluster in made:
            cluster.start()
        with made[0].connect() as admin:
            use_up_transaction_ids(admin, 5000)
        yield made
        for cluster in made:
            cluster.stop("immediate")


@pytest.fixture
def origin(clusters: list[Cluster]) -> Iterator[Connection]:
    """Return a database of the old cluster; pg_dump locks its table `gate` before all others."""
    with clusters[0].connect() as admin:
        admin.execute("create database origin")
    with clusters[0].connect("origin") as conn:
        conn.execute("create table gate ()")
        install(conn)
        value(conn, "select pgque.create_queue('q')")
        yield conn
    for cluster in clusters:
        with cluster.connect() as admin:
            admin.execute("drop database if exists restored with (force)")
            admin.execute("drop database if exists origin with (force)")


@contextlib.contextmanager
def stalled(origin: Connection, dumping: Callable[[], int]) -> Iterator[None]:
    """Run the block while a dump has its snapshot but waits for its first lock."""
    waiting = (
        "select exists (select from pg_locks l join pg_class c on c.oid = l.relation "
        "where c.relname = 'gate' and not l.granted and l.mode = 'AccessShareLock')"
    )
    with psycopg.connect(origin.info.dsn) as gate:
        gate.execute("lock table gate in access exclusive mode")
        thread = Thread(dumping)
        eventually(lambda: value(origin, waiting), "the lock wait of the dump")
        yield
    assert thread.outcome() == 0


class Dumps:
    """Dumps and restores the old cluster's database."""

    def __init__(self, clusters: list[Cluster]) -> None:
        self.clusters = clusters
        self.old = clusters[0]
        self.file = self.old.folder / "dump"
        self.options = ["--format=custom", f"--file={self.file}"]

    def pg_dump(self, name: str) -> Callable[[], int]:
        """Return a run of pg_dump with this application_name, by which rotation recognises it."""

        def run() -> int:
            return subprocess.run(
                [self.old.programs / "pg_dump", *self.options, self.old.dsn("origin")],
                env={**os.environ, "PGAPPNAME": name},
                check=False,
            ).returncode

        return run

    def pgque_dump(self) -> int:
        os.environ["PGAPPNAME"] = "unknown program"
        try:
            program = str(self.old.programs / "pg_dump")
            return dump(self.old.dsn("origin"), self.options, program=program)
        finally:
            del os.environ["PGAPPNAME"]

    def restore(self, where: str) -> Connection:
        target = self.clusters[["same cluster", "other cluster"].index(where)]
        self.file.chmod(0o644)
        with target.connect() as admin:
            for role in ROLES:
                admin.execute(
                    f"do $$ begin create role {role}; "
                    "exception when duplicate_object then null; end $$".encode()
                )
            admin.execute("drop database if exists restored with (force)")
            admin.execute("create database restored")
        into = f"--dbname={target.dsn('restored')}"
        target.run("pg_restore", "--exit-on-error", into, self.file)
        return target.connect("restored")


@pytest.fixture
def dumps(clusters: list[Cluster]) -> Dumps:
    return Dumps(clusters)


class Work:
    """Consumers that finish part of their work before the dump's snapshot, the rest after it."""

    def __init__(self, conn: Connection) -> None:
        subscribe(conn, "q", "c", "held", "retrying", "idle")
        for member in "ab":
            value(conn, GROUP, member)
        self.conn = conn
        self.first = send_many(conn, "q", 6)
        tick(conn, "q")
        self.done = {name: set(ids(drain(conn, "q", name))) for name in ("c", "held", "idle")}
        batch = receive(conn, "q", "retrying")
        for message in batch[:2]:
            nack(conn, message)
        ack(conn, batch)
        self.done["retrying"] = set(ids(batch[2:]))
        self.piece = receive_coop(conn, "q", "g", "a", 4)
        self.done["g"] = set()
        settle(conn, "q")
        assert rotate_ledger(conn)
        self.second = send_many(conn, "q", 10)
        tick(conn, "q")
        self.batch = receive(conn, "q", "held", 4)
        self.all = {*self.first, *self.second}

    def rest(self) -> None:
        """Finish the work of all consumers except `idle`."""
        conn = self.conn
        value(conn, "select pgque.maint_retry_events()")
        ack(conn, self.batch)
        ack(conn, self.piece)
        tick(conn, "q")  # one tick: settle() would wait for the transaction on the gate
        for name in ("c", "held", "retrying"):
            drain(conn, "q", name)
        for member in "abab":
            if batch := receive_coop(conn, "q", "g", member):
                ack(conn, batch)

    def left(self, conn: Connection) -> dict[str, set[int]]:
        """Return the events that each consumer receives in the restored database."""
        value(conn, "select pgque.maint()")
        settle(conn, "q")
        got = {name: set(ids(drain(conn, "q", name))) for name in ("c", "held", "retrying", "idle")}
        got["g"] = set()
        for member in "abababab":
            if batch := receive_coop(conn, "q", "g", member):
                got["g"] |= set(ids(batch))
                ack(conn, batch)
        return got


def rotate_log(conn: Connection, work: Work) -> None:
    drain(conn, "q", "idle")
    for _ in range(4):
        rotate(conn, "q")


ROTATIONS: dict[str, Callable[[Connection, Work], object]] = {
    "the log": rotate_log,
    "the ledger": lambda conn, work: rotate_ledger(conn) and rotate_ledger(conn),
    "both": lambda conn, work: (rotate_log(conn, work), rotate_ledger(conn), rotate_ledger(conn)),
}
WHERE = ["same cluster", "other cluster"]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("kind", ["pg_dump", "pgque dump"])
def test_p1_p3_a_stalled_dump_is_complete(dumps, origin, kind, rotation, where):
    """Rotation recognises pg_dump by name and waits. `pgque dump` takes a lock first instead."""
    work = Work(origin)
    with stalled(origin, dumps.pg_dump("pg_dump") if kind == "pg_dump" else dumps.pgque_dump):
        work.rest()
        ROTATIONS[rotation](origin, work)
        after = send(origin, "q", "not in the dump")
    with dumps.restore(where) as conn:
        heard = notices(conn)
        young = send(conn, "q", "young")
        got = work.left(conn)
        assert young > after
        for name, done in work.done.items():
            assert got[name] == work.all - done | {young}, name
        assert [text for text in heard if "restored from another" not in text] == []
        assert column(conn, "select detail from pgque.restore_report") == []


@pytest.mark.parametrize("where", WHERE)
def test_p1_a_dump_without_its_ledger_repeats_events_but_loses_none(dumps, origin, where):
    work = Work(origin)
    with stalled(origin, dumps.pg_dump("backup")):
        work.rest()
        assert rotate_ledger(origin)
        assert rotate_ledger(origin)
    with dumps.restore(where) as conn:
        heard = notices(conn)
        young = send(conn, "q", "young")
        got = work.left(conn)
        for name, done in work.done.items():
            assert got[name] >= work.all - done | {young}, name
        assert any("was not in the dump" in text for text in heard)
        assert column(conn, "select consumer_name from pgque.restore_report") != []
        said = [one for one in examine(conn.info.dsn) if one.check == "restore"]
        assert {one.status for one in said} == {Status.WARNING}
        assert work.left(conn) == {name: set() for name in got}


@pytest.mark.parametrize("where", WHERE)
def test_p1_a_restored_dump_without_part_of_its_log_reports_the_loss(dumps, origin, where):
    work = Work(origin)
    with stalled(origin, dumps.pg_dump("backup")):
        work.rest()
        rotate_log(origin, work)
        later = send_many(origin, "q", 3)
    with dumps.restore(where) as conn:
        heard = notices(conn)
        young = send(conn, "q", "young")
        got = work.left(conn)
        assert young > max(later)
        lost = {name: work.all - done - got[name] for name, done in work.done.items()}
        assert all(young in events for events in got.values())
        assert lost["c"] == set(work.second)
        rows = conn.execute("select consumer_name, lost_at_most from pgque.restore_report")
        reported = dict(rows.fetchall())
        for name in lost:
            assert lost[name], name
            assert reported[name] >= len(lost[name]), name
        assert sum("was truncated while it was dumped" in text for text in heard) >= len(lost)
        said = [one for one in examine(conn.info.dsn) if one.check == "restore"]
        assert {one.status for one in said} == {Status.FAULT}
        assert any("c of q" in one.detail and "(at most " in one.detail for one in said)
        assert work.left(conn) == {name: set() for name in got}
        for _ in range(4):
            rotate(conn, "q")
        conn.execute("update pgque.config set checked_in = null, cluster_id = 1")
        value(conn, "select pgque.maint()")
        assert len(column(conn, "select 1 from pgque.restore_report")) == len(reported)


def test_rotation_resumes_after_the_dump(dumps, origin):
    work = Work(origin)
    with stalled(origin, dumps.pg_dump("pg_dump")):
        work.rest()
        drain(origin, "q", "idle")
        before = value(origin, "select count(*) from pgque.event_1")
        rotate_log(origin, work)
        assert value(origin, "select count(*) from pgque.event_1") == before
    rotate_log(origin, work)
    assert value(origin, "select count(*) from pgque.event_1") < before
