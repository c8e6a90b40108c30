"""Installing, checking and removing the schema."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

import pgque
from pgque import install as module
from pgque.embedded import Server
from pgque.embedded.binaries import find_account
from pgque.install import check_schema, install, schema_version, script, sql_files, uninstall
from pgque.wire import schema_lock as alone
from tests.fix_database import Connect
from tests.fix_server import embedded_server
from tests.running import eventually

ROLES = ["pgque_admin", "pgque_reader", "pgque_user", "pgque_writer"]
STATE = """
    select (select count(*) from pg_proc
            where pronamespace = 'pgque'::regnamespace and proname !~ '^_event_[0-9]'),
           (select count(*) from pg_class where relnamespace = 'pgque'::regnamespace),
           (select schema_version from pgque.config)
"""


def state(dsn: str) -> tuple[int, ...]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(STATE).fetchone()


def roles(conn: psycopg.Connection) -> list[str]:
    rows = conn.execute("select rolname from pg_roles where rolname ~ '^pgque_' order by 1")
    return [row[0] for row in rows]


# These tests have their own cluster, because roles belong to the cluster.


@pytest.fixture
def admin(own_server: Server) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a cluster without pgque's roles."""
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        databases = conn.execute("select datname from pg_database where datname ~ '^own_'")
        for (name,) in databases.fetchall():
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
        strangers = conn.execute(
            "select rolname from pg_roles where rolname ~ '^(pgque|own)_' order by 1 desc"
        )
        for (name,) in strangers.fetchall():
            conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
        yield conn


@pytest.fixture
def new_database(admin: psycopg.Connection, own_server: Server) -> Callable[..., str]:
    """Create a database with a separate owner; return the owner's connection string."""

    def create(*, rights: str = "nocreaterole") -> str:
        name = f"own_{secrets.token_hex(4)}"
        identifier = sql.Identifier(name)
        admin.execute(sql.SQL("create role {} login " + rights).format(identifier))
        admin.execute(sql.SQL("create database {0} owner {0}").format(identifier))
        return make_conninfo(own_server.dsn_for(name), user=name)

    return create


def test_files_are_sorted_and_contain_no_transaction_control() -> None:
    names = [file.name for file in sql_files()]
    assert names == sorted(names)
    assert names[:2] == ["00_roles.sql", "01_tables.sql"]
    assert names[-1] == "99_roles_and_grants.sql"
    for file in sql_files():
        # Indented lines belong to the body of a procedure.
        lines = set(file.read_text().lower().splitlines())
        assert not lines & {"begin;", "start transaction;", "commit;", "rollback;"}, file


def test_install_twice_changes_nothing(empty_dsn: str) -> None:
    assert schema_version(empty_dsn) is None
    assert install(empty_dsn) == module.SCHEMA_VERSION
    first = state(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("select pgque.create_queue('kept')")
        conn.execute("select pgque.set_queue_config('kept', 'max_retries', '7')")
    assert install(empty_dsn) == module.SCHEMA_VERSION
    with psycopg.connect(empty_dsn) as conn:
        row = conn.execute("select queue_name, queue_max_retries from pgque.queue").fetchone()
    assert row == ("kept", 7)
    assert state(empty_dsn)[0] == first[0]
    assert schema_version(empty_dsn) == module.SCHEMA_VERSION


def test_install_does_not_disturb_a_queue_in_use(
    dsn: str, connect: Connect, queue: str, consumer: str
) -> None:
    """Installing again neither loses nor repeats events."""
    conn = connect()
    for text in ("one", "two"):
        conn.execute("select pgque.send(%s, %s::text)", [queue, text])
        conn.commit()
        conn.execute("select pgque.force_next_tick(%s)", [queue])
        conn.execute("select pgque.ticker(%s)", [queue])
        conn.commit()
    receive = "select payload, batch_id from pgque.receive(%s, %s)"
    payload, batch = conn.execute(receive, [queue, consumer]).fetchone()
    assert payload == "one"
    conn.commit()
    install(dsn)
    assert conn.execute("select pgque.ack(%s)", [batch]).fetchone() == (1,)
    assert conn.execute(receive, [queue, consumer]).fetchone()[0] == "two"


def test_the_printed_script_installs_the_schema(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(script().encode())
        conn.execute(script().encode())
    assert schema_version(empty_dsn) == module.SCHEMA_VERSION


def test_install_takes_part_in_the_callers_transaction(empty_dsn: str) -> None:
    """A migration that rolls back leaves no schema."""
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create table mine (id int)")
        install(conn)
        assert schema_version(conn) == module.SCHEMA_VERSION
        conn.rollback()
        assert schema_version(conn) is None
        conn.rollback()
        install(conn)
    assert schema_version(empty_dsn) == module.SCHEMA_VERSION


@pytest.mark.parametrize("level", ["REPEATABLE_READ", "SERIALIZABLE"])
def test_install_works_at_any_isolation_level(empty_dsn: str, level: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.isolation_level = psycopg.IsolationLevel[level]
        install(conn)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert schema_version(empty_dsn) == module.SCHEMA_VERSION


def test_a_failed_installation_leaves_nothing(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = module._body() + "\nselect 1 / 0;"
    monkeypatch.setattr(module, "_body", lambda: body)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        with pytest.raises(pgque.PgqueError, match="division by zero"):
            install(conn)
        assert conn.execute("select to_regnamespace('pgque')").fetchone() == (None,)


def test_p5_several_processes_can_install_at_once(empty_dsn: str) -> None:
    command = [sys.executable, "-m", "pgque", "install", "--dsn", empty_dsn]
    checkout = Path(pgque.__file__).resolve().parent.parent
    processes = [
        subprocess.Popen(
            command, cwd=checkout, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert errors == [""] * 4
    assert [process.returncode for process in processes] == [0] * 4
    assert schema_version(empty_dsn) == module.SCHEMA_VERSION


def test_p5_several_databases_can_install_at_once(
    admin: psycopg.Connection, new_database: Callable[..., str]
) -> None:
    """Roles belong to the cluster, so a lock inside one database cannot prevent collisions."""
    dsns = [new_database(rights="superuser") for _ in range(6)]
    for _ in range(3):
        with ThreadPoolExecutor(12) as pool:
            assert set(pool.map(install, dsns * 2)) == {module.SCHEMA_VERSION}
        assert roles(admin) == ROLES
        for dsn in dsns:
            assert uninstall(dsn)
        for role in ROLES:
            admin.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def run_script(dsn: str) -> int | None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(script().encode())
    return schema_version(dsn)


@pytest.mark.parametrize("way", [install, run_script])
@pytest.mark.parametrize("granted", [False, True])
def test_p5_an_installation_waits_for_roles_created_elsewhere_and_goes_on(
    own_server: Server,
    admin: psycopg.Connection,
    new_database: Callable[..., str],
    way: Callable[[str], int | None],
    granted: bool,
) -> None:
    """This holds for the installer and for the script when it is run by hand."""
    dsn = new_database(rights="superuser")
    if granted:
        for role in ROLES:
            admin.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
    waiting = "select from pg_stat_activity where wait_event_type = 'Lock'"
    with ThreadPoolExecutor() as pool:
        with admin.transaction():
            admin.execute(sql_files()[0].read_bytes())
            installed = pool.submit(way, dsn)
            with psycopg.connect(own_server.dsn, autocommit=True) as watcher:
                eventually(lambda: watcher.execute(waiting).rowcount, "the installation to block")
        assert installed.result() == module.SCHEMA_VERSION
    assert roles(admin) == ROLES
    member = "select pg_has_role('pgque_admin', 'pgque_writer', 'member')"
    assert admin.execute(member).fetchone() == (True,)


def test_p5_several_databases_can_run_the_script_at_once(
    admin: psycopg.Connection, new_database: Callable[..., str]
) -> None:
    dsns = [new_database(rights="superuser") for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(run_script, dsns * 2)) == {module.SCHEMA_VERSION}
    assert roles(admin) == ROLES


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("XX000", "tuple concurrently updated"),
        ("23505", "duplicate key"),
        ("40P01", "deadlock"),
        ("42704", "role does not exist"),
    ],
)
@pytest.mark.parametrize("times", [2, 9])
def test_p5_a_collision_is_retried_a_few_times(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch, sqlstate: str, message: str, times: int
) -> None:
    def collide(conn: psycopg.Connection) -> None:
        attempts.append(conn)
        if len(attempts) <= times:
            conn.execute(
                f"do $$ begin raise '{message}' using errcode = '{sqlstate}'; end $$".encode()
            )

    attempts: list[psycopg.Connection] = []
    monkeypatch.setattr(module, "_check_rights", collide)
    monkeypatch.setattr(alone, "_ATTEMPTS", 4)
    if times < 4:
        assert install(empty_dsn) == module.SCHEMA_VERSION
    else:
        with pytest.raises(pgque.PgqueError, match=message):
            install(empty_dsn)
        assert len(attempts) == 4
        assert schema_version(empty_dsn) is None


def test_an_installer_with_createrole_creates_the_roles(
    admin: psycopg.Connection, new_database: Callable[..., str]
) -> None:
    dsn = new_database(rights="createrole")
    install(dsn)
    install(dsn)
    assert roles(admin) == ROLES
    with psycopg.connect(dsn) as conn:
        conn.execute("select pgque.create_queue('q')")
        conn.execute("select pgque.send('q', 'works'::text)")


def test_without_createrole_missing_roles_are_an_error(
    new_database: Callable[..., str],
) -> None:
    dsn = new_database()
    with pytest.raises(pgque.PgquePermissionDenied, match="may not create roles") as caught:
        install(dsn)
    assert "create role pgque_writer" in str(caught.value)
    assert schema_version(dsn) is None


def test_an_installer_without_createrole_uses_existing_roles(
    admin: psycopg.Connection, new_database: Callable[..., str]
) -> None:
    for role in ROLES:
        admin.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
    admin.execute("grant pgque_reader, pgque_writer to pgque_admin")
    dsn = new_database()
    install(dsn)
    install(dsn)
    with psycopg.connect(dsn) as conn:
        conn.execute("select pgque.create_queue('q')")
        conn.execute("select pgque.send('q', 'works'::text)")


def test_a_second_owner_can_use_the_roles_of_the_first(
    new_database: Callable[..., str],
) -> None:
    install(new_database(rights="createrole"))
    install(new_database())


def test_an_installer_that_may_not_create_a_schema_fails(
    admin: psycopg.Connection, new_database: Callable[..., str]
) -> None:
    dsn = new_database()
    admin.execute("create role own_guest login")
    with pytest.raises(
        pgque.PgquePermissionDenied, match=r"grant create on database own_\w+ to own_guest"
    ):
        install(make_conninfo(dsn, user="own_guest"))


def test_a_schema_of_another_role_is_refused(
    admin: psycopg.Connection, new_database: Callable[..., str]
) -> None:
    dsn = new_database(rights="createrole")
    install(dsn)
    admin.execute("create role own_guest login")
    guest = make_conninfo(dsn, user="own_guest")
    with pytest.raises(pgque.PgquePermissionDenied, match="belongs to another role than own_guest"):
        install(guest)
    with pytest.raises(pgque.PgquePermissionDenied, match="grant pgque_reader or pgque_writer"):
        check_schema(guest)
    with pytest.raises(pgque.PgquePermissionDenied):
        uninstall(guest)
    admin.execute("grant pgque_writer to own_guest")
    check_schema(guest)
    with pytest.raises(pgque.PgquePermissionDenied):
        uninstall(guest)
    assert schema_version(dsn) == module.SCHEMA_VERSION


def test_a_schema_newer_than_the_client_is_refused(dsn: str, autoconn: psycopg.Connection) -> None:
    before = state(dsn)
    autoconn.execute("update pgque.config set schema_version = 999")
    for call in (install, check_schema):
        with pytest.raises(pgque.PgqueSchemaNewer, match="version 999, this client knows"):
            call(dsn)
    assert state(dsn)[:2] == before[:2]
    autoconn.execute("update pgque.config set schema_version = %s", [before[2]])
    check_schema(autoconn)


def test_check_schema_reports_a_missing_schema(empty_dsn: str) -> None:
    with pytest.raises(pgque.PgqueSchemaMissing, match="pgque install"):
        check_schema(empty_dsn)


def test_a_read_only_session_cannot_install(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.read_only = True
        with pytest.raises(pgque.PgqueReadOnly, match="read-only"):
            install(conn)
        conn.rollback()
        conn.read_only = False
        install(conn)


def test_a_standby_refuses_install(
    own_server: Server, admin: psycopg.Connection, home: Path
) -> None:
    install(admin)
    backup = [own_server.bin_dir / "pg_basebackup", "--dbname", own_server.dsn, "--checkpoint=fast"]
    subprocess.run([*backup, "--write-recovery-conf", "--pgdata", home / "data"], check=True)
    if account := find_account():
        for path in [home / "data", *(home / "data").rglob("*")]:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
    with embedded_server(data_dir=home) as standby:
        with pytest.raises(pgque.PgqueReadOnly, match="standby"):
            install(standby.dsn)
        check_schema(standby.dsn)
    assert uninstall(admin)


def test_an_old_server_is_refused(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OLDEST_SERVER", 99)
    with pytest.raises(pgque.PgqueServerTooOld, match="pgque needs 99 or later"):
        install(empty_dsn)
    monkeypatch.undo()
    assert schema_version(empty_dsn) is None


def test_an_unreachable_server_raises_a_connection_error() -> None:
    with pytest.raises(pgque.PgqueConnectionError):
        install("host=/nowhere dbname=none")
