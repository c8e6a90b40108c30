"""`pgque install` on an older schema: the result equals a fresh one, and it blocks no client.

Only one version exists so far, so the tests make up the next one: a copy of the engine with a step
that changes tables, logs and functions in every way that a step may.
"""

import contextlib
import logging
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

import pgque
from pgque import ClientPool, Consumer, PgqueClient, Ticker
from pgque import install as module
from pgque.embedded.binaries import find_binaries
from pgque.install import SCHEMA_VERSION, install, schema_version, script
from pgque.wire import schema_lock as alone
from tests.fix_engine import Thread, is_blocked, refused, send, value
from tests.running import eventually, running
from tests.upgrade.backlog import Backlog

NEXT = SCHEMA_VERSION + 1

STEP = """\
create table pgque.colour (name text primary key);
alter table pgque.queue add column queue_colour text not null default 'grey';
create index queue_colour on pgque.queue (queue_colour);
drop function pgque._sequence_seen(text); -- its parameter has a new name
do $$
declare
    log text;
begin
    for log in select queue_data_pfx from pgque.queue loop
        for child in 0 .. 2 loop -- before the parent, so that the column is local
            execute format('alter table %s_%s add column ev_colour text', log, child);
        end loop;
        execute format('alter table %s add column ev_colour text', log);
    end loop;
end
$$;
"""

CHANGES = {
    "01_tables.sql": [
        (f"values ({SCHEMA_VERSION})\n", f"values ({NEXT})\n"),
        (
            "    queue_floor bigint not null default -1\n",
            "    queue_floor bigint not null default -1,\n"
            "    queue_colour text not null default 'grey'\n",
        ),
        (
            "create table if not exists pgque.consumer (",
            "create table if not exists pgque.colour (name text primary key);\n"
            "do $$ begin if to_regclass('pgque.queue_colour') is null then "
            "create index queue_colour on pgque.queue (queue_colour); end if; end $$;\n"
            "create table if not exists pgque.consumer (",
        ),
    ],
    "06_log.sql": [
        (
            "            ev_extra4 text\n        )'",
            "            ev_extra4 text,\n            ev_colour text\n        )'",
        )
    ],
    "02_common.sql": [
        ("pgque._sequence_seen(sequence_name text)", "pgque._sequence_seen(name text)"),
        ("pgque._sequence_value(sequence_name);", "pgque._sequence_value(name);"),
        ("select '0.1.0'", "select '9.9.9'"),
    ],
}  # fmt: skip


@pytest.fixture
def use_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes the next version the one to install."""

    def use() -> None:
        folder = tmp_path / "sql"
        shutil.copytree(module.sql_folder(), folder)
        for name, changes in CHANGES.items():
            text = (folder / name).read_text()
            for before, after in changes:
                assert text.count(before) == 1, before
                text = text.replace(before, after)
            (folder / name).write_text(text)
        (folder / "upgrade" / f"{NEXT:04}_colours.sql").write_text(STEP)
        monkeypatch.setattr(module, "sql_folder", lambda: folder)
        monkeypatch.setattr(module, "SCHEMA_VERSION", NEXT)

    return use


def dump(dsn: str) -> list[str]:
    program = find_binaries(18).bin / "pg_dump"
    done = subprocess.run(
        [program, "--schema-only", f"--dbname={dsn}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "restrict" not in line]


def add_queues(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for name in ("one", "two"):
            value(conn, "select pgque.create_queue(%s)", name)
        value(conn, "select pgque.maint()")


def test_a_fresh_install_and_an_upgraded_one_dump_identically(databases, use_next):
    upgraded, fresh = databases.create(), databases.create()
    try:
        install(upgraded)
        add_queues(upgraded)
        before = dump(upgraded)
        install(upgraded)
        assert dump(upgraded) == before
        use_next()
        assert install(upgraded) == NEXT
        assert install(fresh) == NEXT
        add_queues(fresh)
        assert dump(upgraded) == dump(fresh) != before
        assert [schema_version(dsn) for dsn in (upgraded, fresh)] == [NEXT, NEXT]
        assert install(upgraded) == NEXT  # the step does not run again
        assert dump(upgraded) == dump(fresh)
    finally:
        databases.drop(upgraded)
        databases.drop(fresh)


def test_the_script_upgrades_like_install_and_never_downgrades(dsn, autoconn, use_next):
    older = script().encode()
    use_next()
    for _ in range(2):
        autoconn.execute(script().encode())
    assert value(autoconn, "select schema_version from pgque.config") == NEXT
    after = dump(dsn)
    with refused("PQ015", f"newer than version {SCHEMA_VERSION}"):
        autoconn.execute(older)
    autoconn.execute("rollback")
    assert dump(dsn) == after


def test_a_failed_step_leaves_the_older_schema(dsn, autoconn, use_next):
    before = dump(dsn)
    autoconn.execute("create table pgque.colour (name text)")
    use_next()
    with pytest.raises(pgque.PgqueError, match="already exists"):
        install(dsn)
    autoconn.execute("drop table pgque.colour")
    assert dump(dsn) == before
    assert schema_version(dsn) == SCHEMA_VERSION
    assert install(dsn) == NEXT


def test_every_shipped_step_has_its_own_version():
    assert list(module.upgrade_files()) == list(range(2, SCHEMA_VERSION + 1))


def test_p2_p3_work_in_progress_continues_after_an_upgrade(direct_dsn, use_next):
    backlog = Backlog(direct_dsn)
    with psycopg.connect(direct_dsn, autocommit=True) as conn:
        use_next()
        upgrade = Thread(install, direct_dsn)
        # The open transaction holds a lock on a table that the step changes.
        backlog.open.commit()
        backlog.leave()
        assert upgrade.outcome() == NEXT
        backlog.check(conn, backlog.undecided)


def test_p5_installations_block_no_client(direct_dsn, use_next, caplog):
    """A producer, a consumer, a group and a ticker run during installations and an upgrade."""
    caplog.set_level(logging.WARNING)
    with psycopg.connect(direct_dsn, autocommit=True) as conn:
        PgqueClient(conn).create_queue("q")
        PgqueClient(conn).subscribe("q", "c")
        PgqueClient(conn).subscribe_subconsumer("q", "g", "a")
    got: list[int] = []
    shared: list[int] = []
    parts: list[Consumer | Ticker] = [Ticker(direct_dsn)]
    for name, member, heard in (("c", None, got), ("g", "a", shared), ("g", "b", shared)):
        consumer = Consumer(direct_dsn, queue="q", name=name, subconsumer=member)
        consumer.on("*")(lambda message, heard=heard: heard.append(message.msg_id))
        parts.append(consumer)
    sent: list[int] = []
    enough = threading.Event()

    def produce() -> None:
        with pgque.connect(direct_dsn, autocommit=True) as client:
            while not enough.is_set():
                sent.append(client.send("q", "x"))

    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(running(part))
        producer = Thread(produce)
        try:
            for turn in range(6):
                before = len(got)
                if turn == 3:
                    use_next()
                install(direct_dsn)
                eventually(lambda before=before: len(got) > before + 20, "deliveries")
        finally:
            enough.set()
        producer.outcome()
        assert schema_version(direct_dsn) == NEXT
        eventually(lambda: len(got) >= len(sent) and len(shared) >= len(sent))
    assert got == sent
    assert sorted(shared) == sent
    assert [record.getMessage() for record in caplog.records] == []


def test_p5_a_long_transaction_delays_only_the_upgrade(direct_dsn, use_next):
    with (
        psycopg.connect(direct_dsn) as long,
        psycopg.connect(direct_dsn, autocommit=True) as conn,
        pgque.connect(direct_dsn, autocommit=True) as client,
    ):
        client.create_queue("q")
        client.subscribe("q", "c")
        send(long, "q", "long")
        client.conn.execute("set statement_timeout = '20s'")
        use_next()
        upgrade = Thread(install, direct_dsn)
        for n in range(4):
            eventually(lambda: is_waiting(conn), "the lock wait of the upgrade")
            client.send("q", n)  # not blocked by the waiting upgrade
            client.ticker("q")
        assert upgrade.is_alive()
        long.commit()
        assert upgrade.outcome() == NEXT


def test_p5_a_queue_created_during_an_upgrade_has_the_new_schema(connect, use_next):
    """create_queue starts with the older function and waits inside it."""
    upgrading, making = connect(), connect(autocommit=True)
    use_next()
    upgrading.execute("begin")
    install(upgrading)
    queue = Thread(lambda: value(making, "select pgque.create_queue('q')"))
    eventually(lambda: is_blocked(upgrading, making), "the lock wait of create_queue")
    upgrading.commit()
    assert queue.outcome() == 1
    assert value(making, "select pgque.send('q', 'x'::text)") == 1
    assert making.execute("select ev_colour from pgque.event_1").fetchone() == (None,)


def is_waiting(conn: psycopg.Connection) -> bool:
    return value(
        conn,
        "select count(*) > 0 from pg_stat_activity "
        "where application_name = 'pgque install' and wait_event_type = 'Lock'",
    )


def test_an_upgrade_that_waits_too_long_names_the_cause(direct_dsn, use_next, monkeypatch):
    monkeypatch.setattr(alone, "_LOCK_ATTEMPTS", 2)
    with psycopg.connect(direct_dsn) as long:
        value(long, "select pgque.create_queue('q')")
        use_next()
        with pytest.raises(pgque.PgqueBusy, match="pg_stat_activity"):
            install(direct_dsn)
    assert schema_version(direct_dsn) == SCHEMA_VERSION


# An older client with a newer schema, and the reverse


def test_an_older_client_is_refused_when_it_connects(dsn, use_next, monkeypatch):
    use_next()
    install(dsn)
    monkeypatch.setattr(module, "SCHEMA_VERSION", SCHEMA_VERSION)
    consumer = Consumer(dsn, queue="q", name="c")
    consumer.on("*")(lambda message: None)
    for call in (
        lambda: pgque.connect(dsn),
        lambda: ClientPool(dsn),
        consumer.start,
        Ticker(dsn).run,
        lambda: install(dsn),
    ):
        with pytest.raises(pgque.PgqueSchemaNewer, match="upgrade the Python package pgque"):
            call()
    assert schema_version(dsn) == NEXT


def test_an_older_client_continues_on_an_existing_connection(dsn, conn, use_next, queue, consumer):
    client = PgqueClient(conn)
    client.send(queue, "before")
    conn.commit()
    use_next()
    install(dsn)
    client.send(queue, "after")
    conn.commit()
    client.ticker(queue)
    conn.commit()
    batch = client.receive(queue, consumer)
    assert [message.payload for message in batch] == ["before", "after"]
    client.nack(batch[0].batch_id, batch[0])
    assert client.ack(batch[0].batch_id) == 1
    assert value(conn, "select pgque.version()") == "9.9.9"


def test_a_newer_client_works_with_an_older_schema(dsn, use_next, queue, consumer):
    use_next()
    with ClientPool(dsn) as pool, pool.client() as client:
        client.send(queue, "x")
    got: list[str | None] = []
    worker = Consumer(dsn, queue=queue, name=consumer)
    worker.on("*")(lambda message: got.append(message.payload))
    with running(Ticker(dsn)), running(worker):
        eventually(lambda: got == ["x"])
    assert schema_version(dsn) == SCHEMA_VERSION


def test_a_function_missing_in_an_older_schema_is_named_with_the_remedy(
    autoconn, dsn, queue, consumer
):
    autoconn.execute("drop function pgque.nack_many(bigint, bigint[], interval, text[])")
    with pgque.connect(dsn, autocommit=True) as client:
        with pytest.raises(pgque.PgqueSchemaMissing, match="pgque install"):
            client.nack_many(1, [])
        install(dsn)
        with pytest.raises(pgque.PgqueBatchNotFound):
            client.nack_many(1, [])
