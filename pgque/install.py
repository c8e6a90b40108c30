"""Install, check and remove the schema `pgque` in a database."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from psycopg import errors as pg

from pgque.errors import (
    PgqueError,
    PgquePermissionDenied,
    PgqueReadOnly,
    PgqueSchemaMissing,
    PgqueSchemaNewer,
    PgqueServerTooOld,
    mapped,
)
from pgque.wire.schema_lock import Connection, connection, locked, query, row, value

SCHEMA_VERSION = 1
"""The version of the schema that this client installs and works with."""

OLDEST_SERVER = 14


def sql_files() -> list[Path]:
    """Return the engine's SQL files in the order of installation."""
    return sorted(sql_folder().glob("[0-9][0-9]_*.sql"))


def upgrade_files() -> dict[int, Path]:
    """Return the upgrade steps from older schemas, by the version to which each one upgrades.

    ``sql/upgrade/0002_….sql`` upgrades version 1 to version 2: it changes tables and drops obsolete
    objects. The engine's SQL files run afterwards and replace the functions.
    """
    files = sorted((sql_folder() / "upgrade").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return {int(file.name[:4]): file for file in files}


def sql_folder() -> Path:
    """Return the folder of the engine's SQL files: in the wheel, or next to the package."""
    here = Path(__file__).resolve().parent
    for folder in (here / "sql", here.parent / "sql"):
        if (folder / "01_tables.sql").is_file():
            return folder
    raise PgqueError(f"the SQL files of pgque are missing in {here}: install pgque again")


def script() -> str:
    """Return the whole schema as one script to paste into a console.

    The script creates the roles in one transaction and the rest in another. It can be run
    repeatedly, and in several databases of a cluster at the same time.
    """
    head = f"-- pgque: schema version {SCHEMA_VERSION}. Run it as the owner of the database."
    roles = _ROLES_FIRST.format(statements=sql_files()[0].read_text(encoding="utf-8"))
    return f"{head}\nbegin;\n\n{roles}\ncommit;\nbegin;\n\n{_body()}\ncommit;\n"


def install(target: str | Connection) -> int:
    """Install the schema, or bring it up to date; return its version.

    ``target`` is a connection string or a connection. Everything runs in one transaction. If the
    connection is already in a transaction, the caller must commit it. Installing again changes
    nothing, and concurrent installers wait for each other. Producers, consumers and tickers keep
    running.

    Raises `PgqueServerTooOld`, `PgqueReadOnly`, `PgqueSchemaNewer`, `PgquePermissionDenied` (which
    names the missing right), `PgqueConnectionError`, or `PgqueBusy` if long transactions blocked a
    change of a table for about a minute.
    """

    def work(conn: Connection) -> int:
        _check_rights(conn)
        found = _read_version(conn)
        if found is not None and found > SCHEMA_VERSION:
            raise PgqueSchemaNewer(_newer(found))
        _run_script(conn)
        return SCHEMA_VERSION

    with connection(target) as conn:
        _check_server(conn)
        return locked(conn, work)


@dataclass(frozen=True)
class Installed:
    """The installed version of the schema, and the release of pgque that installed it."""

    schema: int
    release: str

    def __str__(self) -> str:
        return f"version {self.schema} (pgque {self.release})"


@dataclass(frozen=True)
class Upgrade:
    """The installed versions before and after an upgrade."""

    before: Installed
    after: Installed

    @property
    def changed(self) -> bool:
        """Whether the upgrade changed anything."""
        return self.before != self.after


def upgrade(target: str | Connection) -> Upgrade:
    """Bring an older schema up to date, see `install`; do nothing if it is current.

    ``target`` is a connection string or a connection, see `install`. Raises `PgqueSchemaMissing` if
    nothing is installed, and otherwise the same errors as `install`.
    """

    def work(conn: Connection) -> Upgrade:
        found = _read_version(conn)
        if found is None:
            raise PgqueSchemaMissing(
                f"the database {conn.info.dbname} has no schema pgque to upgrade, or only its "
                "structure without data: run pgque install"
            )
        if found > SCHEMA_VERSION:
            raise PgqueSchemaNewer(_newer(found))
        before = Installed(found, value(conn, b"select pgque.version()"))
        ours = Installed(SCHEMA_VERSION, _release())
        if before == ours:
            return Upgrade(before, before)
        if found == SCHEMA_VERSION and _numbers(before.release) > _numbers(ours.release):
            raise PgqueSchemaNewer(
                f"the schema in this database is from pgque {before.release}, this client's from "
                f"{ours.release}: upgrade the Python package pgque"
            )
        _check_rights(conn)
        _run_script(conn)
        return Upgrade(before, ours)

    with connection(target) as conn:
        _check_server(conn)
        return locked(conn, work)


def uninstall(target: str | Connection) -> bool:
    """Drop the schema with everything in it (`pgque.uninstall`); return False if it is missing.

    The roles are kept, because other databases of the cluster may use them.
    """

    def work(conn: Connection) -> bool:
        if not value(conn, b"select to_regnamespace('pgque') is not null"):
            return False
        query(conn, b"select pgque.uninstall()")
        return True

    with connection(target) as conn:
        _check_server(conn)
        return locked(conn, work)


def schema_version(target: str | Connection) -> int | None:
    """Return the version of the installed schema; None if it is missing.

    Raises `PgquePermissionDenied` for a user that is neither reader, writer nor admin.
    """
    with connection(target) as conn, mapped:
        return _read_version(conn)


@dataclass(frozen=True)
class Versions:
    """The versions of a server and of its schema; ``schema`` is None without pgque."""

    server: str
    schema: int | None


def server_versions(target: str | Connection) -> Versions:
    """Return the version of the server and of the schema in the target's database."""
    with connection(target) as conn, mapped:
        server = str(value(conn, b"show server_version"))
        return Versions(server.split()[0], _read_version(conn))


def check_schema(target: str | Connection) -> None:
    """Raise `PgqueSchemaMissing` or `PgqueSchemaNewer` if this client cannot use the schema."""
    found = schema_version(target)
    if found is None:
        raise PgqueSchemaMissing(
            "the schema pgque is not in this database, or was restored without its data\n"
            f"{PgqueSchemaMissing.advice}"
        )
    if found > SCHEMA_VERSION:
        raise PgqueSchemaNewer(_newer(found))


def _newer(found: int) -> str:
    return (
        f"the schema in this database has version {found}, this client knows {SCHEMA_VERSION}: "
        "upgrade the Python package pgque"
    )


def _release() -> str:
    """Return the release whose functions this client installs."""
    found = re.search(r"function pgque\.version\(\).*?'([^']+)'", _body(), re.DOTALL)
    assert found is not None
    return found[1]


def _numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def _run_script(conn: Connection) -> None:
    try:
        query(conn, _body().encode())
    except pg.InsufficientPrivilege as error:
        advice = error.diag.message_hint or "install as the owner of the database"
        raise PgquePermissionDenied(
            f"{error.diag.message_primary}\n{advice}", sqlstate=error.sqlstate
        ) from error


def _body() -> str:
    steps = [_step(version, file) for version, file in upgrade_files().items()]
    files = [file.read_text(encoding="utf-8") for file in sql_files()]
    return "\n".join([_REFUSE_NEWER.format(version=SCHEMA_VERSION), *steps, *files])


# If a collision stops this block, there is nothing to retry: the other run committed every role.
_ROLES_FIRST = """\
do $first$
begin
    execute $roles$
{statements}
    $roles$;
exception
    when unique_violation or duplicate_object or undefined_object or deadlock_detected
        or internal_error
    then
        raise notice 'the roles were made in another database at this moment (%)', sqlerrm;
end
$first$;
"""


# For the script that is pasted into a console; `install` makes the same check before it begins.
_REFUSE_NEWER = """\
-- Two installers at once in one database: the second waits here and then finds everything done.
select pg_catalog.pg_advisory_xact_lock(1885827445, 0);
do $$
begin
    if to_regclass('pgque.config') is not null then
        if (select schema_version > {version} from pgque.config) then
            raise exception 'the schema in this database is newer than version {version}'
                using errcode = 'PQ015', hint = 'Upgrade the Python package pgque.';
        end if;
    end if;
end
$$;
"""


_STEP = """\
do $upgrade$
begin
    if to_regclass('pgque.config') is not null then
        if (select schema_version < {version} from pgque.config) then
            lock table pgque.queue in share row exclusive mode; -- blocks create_queue, drop_queue
            execute $step_{version}$
{statements}
            $step_{version}$;
            update pgque.config set schema_version = {version};
        end if;
    end if;
end
$upgrade$;
"""


def _step(version: int, file: Path) -> str:
    """Return an upgrade step as SQL that runs only in a schema older than its version."""
    return _STEP.format(version=version, statements=file.read_text(encoding="utf-8"))


def _check_server(conn: Connection) -> None:
    version = conn.info.server_version
    if version < OLDEST_SERVER * 10_000:
        raise PgqueServerTooOld(
            f"this is PostgreSQL {version // 10_000}, pgque needs {OLDEST_SERVER} or later"
        )


def _check_rights(conn: Connection) -> None:
    """Raise a specific error for anything that would make the script fail half-way."""
    recovering, read_only, mine, creates = row(
        conn,
        b"""
        select pg_is_in_recovery(),
               current_setting('transaction_read_only')::boolean,
               (select pg_has_role(n.nspowner, 'usage')
                  from pg_namespace n
                 where n.nspname = 'pgque'),
               has_database_privilege(current_database(), 'create')
        """,
    )
    if recovering:
        raise PgqueReadOnly("this server is a standby: install on its primary")
    if read_only:
        raise PgqueReadOnly("this session is read-only (default_transaction_read_only)")
    user, database = conn.info.user, conn.info.dbname
    if mine is False:
        raise PgquePermissionDenied(f"the schema pgque belongs to another role than {user}")
    if not creates:
        raise PgquePermissionDenied(
            f"{user} may not create a schema: grant create on database {database} to {user}"
        )


def _read_version(conn: Connection) -> int | None:
    try:
        if value(conn, b"select to_regclass('pgque.config') is null"):
            return None
        # A schema restored without its data lacks the only row of config; installing restores it.
        found = value(conn, b"select (select schema_version from pgque.config)")
        return None if found is None else int(found)
    except pg.InsufficientPrivilege as error:
        user = conn.info.user
        raise PgquePermissionDenied(
            f"{user} may not use the schema pgque: grant pgque_reader or pgque_writer to {user}"
        ) from error
