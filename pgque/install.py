"""Install, check and remove the schema `pgque` in a database."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgque.errors import (
    PgqueBusy,
    PgqueError,
    PgquePermissionDenied,
    PgqueReadOnly,
    PgqueSchemaMissing,
    PgqueSchemaNewer,
    PgqueServerTooOld,
    mapped,
)

SCHEMA_VERSION = 1
"""The version of the schema that this client installs and speaks to."""

OLDEST_SERVER = 14

Connection = psycopg.Connection[Any]
T = TypeVar("T")

_LOCK = b"select pg_catalog.pg_advisory_xact_lock(1885827445, 0)"  # the one of sql/01_tables.sql
_ATTEMPTS = 12

# A change of a table waits for the transactions that use it, and all others wait behind it. So it
# waits for a moment only, lets them pass, and comes back.
_LOCK_TIMEOUT_MS = 200
_LOCK_ATTEMPTS = 120

# Roles belong to the whole cluster: an installer in another database may create or grant the
# same ones at this moment, which no lock of this database can keep away.
_COLLISIONS = (
    pg.UniqueViolation,
    pg.DuplicateObject,
    pg.DuplicateSchema,
    pg.DeadlockDetected,
    pg.SerializationFailure,
)


def sql_files() -> list[Path]:
    """Return the engine's SQL files in the order of their installation."""
    return sorted(sql_folder().glob("[0-9][0-9]_*.sql"))


def upgrade_files() -> dict[int, Path]:
    """Return the steps from older schemas to this one, by the version to which each leads.

    ``sql/upgrade/0002_….sql`` makes version 2 of version 1: it changes tables, and drops what is
    no more. Functions are replaced by the files of the engine, which run afterwards.
    """
    files = sorted((sql_folder() / "upgrade").glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return {int(file.name[:4]): file for file in files}


def sql_folder() -> Path:
    """Return the folder of the engine: inside of the wheel, or beside the package."""
    here = Path(__file__).resolve().parent
    for folder in (here / "sql", here.parent / "sql"):
        if (folder / "01_tables.sql").is_file():
            return folder
    raise PgqueError(f"the SQL files of pgque are missing beside {here}: install pgque again")


def script() -> str:
    """Return the whole schema as one script, to be pasted into a console.

    It is one transaction and may be run again at any time.
    """
    head = f"-- pgque: schema version {SCHEMA_VERSION}. Run it as the owner of the database."
    return f"{head}\nbegin;\n\n{_body()}\ncommit;\n"


def install(target: str | Connection) -> int:
    """Install the schema, or bring it up to date; return its version.

    ``target`` is a connection string or a connection. All happens in one transaction; on a
    connection that is in a transaction already it is left to the caller to commit. Installing
    again changes nothing, and several installers at once wait for each other. Producers, consumers
    and tickers go on meanwhile.

    Raises `PgqueServerTooOld`, `PgqueReadOnly`, `PgqueSchemaNewer`, `PgquePermissionDenied`
    (which names the right that is missing), `PgqueConnectionError`, or `PgqueBusy` where a table
    that has to be changed was in use by long transactions for about a minute.
    """
    body = _body().encode()

    def work(conn: Connection) -> int:
        _check_rights(conn)
        found = _read_version(conn)
        if found is not None and found > SCHEMA_VERSION:
            raise PgqueSchemaNewer(_newer(found))
        try:
            _query(conn, body)
        except pg.InsufficientPrivilege as error:
            advice = error.diag.message_hint or "install as the owner of the database"
            raise PgquePermissionDenied(
                f"{error.diag.message_primary}\n{advice}", sqlstate=error.sqlstate
            ) from error
        return SCHEMA_VERSION

    with _connection(target) as conn:
        _check_server(conn)
        return _locked(conn, work)


def uninstall(target: str | Connection) -> bool:
    """Drop the schema with everything in it (`pgque.uninstall`); False where there is none.

    The roles stay: other databases of the cluster may use them.
    """

    def work(conn: Connection) -> bool:
        if not _value(conn, b"select to_regnamespace('pgque') is not null"):
            return False
        _query(conn, b"select pgque.uninstall()")
        return True

    with _connection(target) as conn:
        _check_server(conn)
        return _locked(conn, work)


def schema_version(target: str | Connection) -> int | None:
    """Return the version of the installed schema, None where there is none.

    Raises `PgquePermissionDenied` for a role that is neither reader, writer nor admin.
    """
    with _connection(target) as conn, mapped:
        return _read_version(conn)


@dataclass(frozen=True)
class Versions:
    """What a server runs: ``schema`` is None where pgque is not installed."""

    server: str
    schema: int | None


def server_versions(target: str | Connection) -> Versions:
    """Return the version of the server and that of the schema in its database."""
    with _connection(target) as conn, mapped:
        server = str(_value(conn, b"show server_version"))
        return Versions(server.split()[0], _read_version(conn))


def check_schema(target: str | Connection) -> None:
    """Raise `PgqueSchemaMissing` or `PgqueSchemaNewer` where this client cannot work."""
    found = schema_version(target)
    if found is None:
        raise PgqueSchemaMissing(
            f"the schema pgque is not in this database\n{PgqueSchemaMissing.advice}"
        )
    if found > SCHEMA_VERSION:
        raise PgqueSchemaNewer(_newer(found))


def _newer(found: int) -> str:
    return (
        f"the schema in this database has version {found}, this client knows {SCHEMA_VERSION}: "
        "upgrade the Python package pgque"
    )


def _body() -> str:
    steps = [_step(version, file) for version, file in upgrade_files().items()]
    files = [file.read_text(encoding="utf-8") for file in sql_files()]
    return "\n".join([_REFUSE_NEWER.format(version=SCHEMA_VERSION), *steps, *files])


# For the script that is pasted into a console; `install` says the same before it begins.
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
            lock table pgque.queue in share row exclusive mode; -- nobody makes or drops one
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
    """Return a step that is done where the schema is older than the version it leads to."""
    return _STEP.format(version=version, statements=file.read_text(encoding="utf-8"))


@contextmanager
def _connection(target: str | Connection) -> Iterator[Connection]:
    if isinstance(target, psycopg.Connection):
        yield target
        return
    with mapped:
        conn = psycopg.connect(
            target,
            autocommit=True,
            client_encoding="utf8",
            fallback_application_name="pgque install",
            prepare_threshold=None,  # for poolers; each statement runs once
        )
    with conn:
        yield conn


def _locked(conn: Connection, work: Callable[[Connection], T]) -> T:
    """Do ``work`` in one transaction, alone in this database; again after a collision."""
    own = conn.info.transaction_status == TransactionStatus.IDLE
    collisions = waits = 0
    while True:
        try:
            with mapped, conn.transaction():
                if own:
                    # A snapshot from before the lock would not see what was waited for.
                    _query(conn, b"set transaction isolation level read committed")
                _query(conn, _LOCK)
                if own:
                    _query(conn, f"set local lock_timeout = {_LOCK_TIMEOUT_MS}".encode())
                return work(conn)
        except PgqueBusy as error:
            waits += 1
            if not own or waits == _LOCK_ATTEMPTS:
                raise PgqueBusy(
                    f"{error}\nA transaction has been using for long what has to be changed: "
                    "end it (pg_stat_activity shows it) and do this again.",
                    sqlstate=error.sqlstate,
                ) from error.__cause__
            time.sleep(random.uniform(0.1, 0.5))  # noqa: S311
        except PgqueError as error:
            collisions += 1
            if collisions == _ATTEMPTS or not _is_collision(error.__cause__):
                raise
            time.sleep(random.uniform(0.02, 0.05) * collisions)  # noqa: S311


def _is_collision(cause: BaseException | None) -> bool:
    if isinstance(cause, pg.InternalError_):
        return "concurrently" in str(cause)
    return isinstance(cause, _COLLISIONS)


def _check_server(conn: Connection) -> None:
    version = conn.info.server_version
    if version < OLDEST_SERVER * 10_000:
        raise PgqueServerTooOld(
            f"this is PostgreSQL {version // 10_000}, pgque needs {OLDEST_SERVER} or later"
        )


def _check_rights(conn: Connection) -> None:
    """Raise the named error for what would make the script fail half way."""
    recovering, read_only, mine, creates = _row(
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
        if _value(conn, b"select to_regclass('pgque.config') is null"):
            return None
        return int(_value(conn, b"select schema_version from pgque.config"))
    except pg.InsufficientPrivilege as error:
        user = conn.info.user
        raise PgquePermissionDenied(
            f"{user} may not use the schema pgque: grant pgque_reader or pgque_writer to {user}"
        ) from error


def _query(conn: Connection, statements: bytes) -> None:
    with conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(statements)


def _row(conn: Connection, statement: bytes) -> tuple[Any, ...]:
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(statement).fetchone()
        assert row is not None
        return row


def _value(conn: Connection, statement: bytes) -> Any:
    return _row(conn, statement)[0]
