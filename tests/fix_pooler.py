"""PgBouncer in transaction mode in front of the test server.

With `PGQUE_TEST_POOLER=1` every connection string given to a test leads through it. Each
transaction gets a different backend from the one before, so no session state survives.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgque.embedded.binaries import find_account
from tests.fix_server import temporary_in, wanted_version
from tests.running import eventually

POOLED = os.environ.get("PGQUE_TEST_POOLER") == "1"
"""Whether all tests connect through the pooler."""

PORT = 6432

directly = pytest.mark.skipif(POOLED, reason="needs a feature that poolers do not support")

pooler_at_hand = pytest.mark.skipif(
    shutil.which("pgbouncer") is None, reason="pgbouncer is not installed"
)


class Pooler:
    """A running PgBouncer; `dsn` rewrites a connection string to lead through it."""

    def __init__(self, server_dsn: str, folder: Path, settings: dict[str, object]) -> None:
        self.folder = folder
        self.log = folder / "log"
        server = conninfo_to_dict(server_dsn)
        self._user = server.get("user", "postgres")
        target = {key: server[key] for key in ("host", "port", "password") if key in server}
        options = {
            "pool_mode": "transaction",
            "listen_port": PORT,
            "unix_socket_dir": folder,
            "unix_socket_mode": "0777",
            "auth_type": "trust",
            "auth_file": folder / "users",
            "auth_user": self._user,
            "auth_query": "select rolname::text, ''::text from pg_catalog.pg_roles "
            "where rolname = $1",
            "admin_users": self._user,
            "logfile": self.log,
            "max_client_conn": 500,
            "default_pool_size": 20,
            "min_pool_size": 3,
            "server_round_robin": 1,
            **settings,
        }
        lines = ["[databases]", "* = " + make_conninfo(**target), "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in options.items()]
        (folder / "users").write_text(f'"{self._user}" ""\n')
        (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")

    def dsn(self, dsn: str) -> str:
        return make_conninfo(dsn, host=str(self.folder), port=PORT, password=None)

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.admin().close()
            return True
        return False

    def admin(self) -> psycopg.Connection[Any]:
        """Connect to PgBouncer's admin console, which accepts simple queries only."""
        dsn = make_conninfo(host=str(self.folder), port=PORT, user=self._user, dbname="pgbouncer")
        return psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)


@contextlib.contextmanager
def running_pooler(server_dsn: str, **settings: object) -> Iterator[Pooler]:
    """Run a PgBouncer with the given settings; it is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pgque-pooler-", dir=temporary_in()))
    try:
        pooler = Pooler(server_dsn, folder, settings)
        identity: dict[str, Any] = {}
        if account := find_account():  # PgBouncer refuses to run as root
            identity = {"user": account.uid, "group": account.gid, "extra_groups": []}
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.uid, account.gid)
        folder.chmod(0o711)
        child = subprocess.Popen(
            ["pgbouncer", "-q", str(folder / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **identity,
        )
        try:
            eventually(lambda: pooler.answers() or child.poll() is not None, "the pooler")
            assert child.poll() is None, pooler.log.read_text()
            yield pooler
        finally:
            child.kill()
            child.wait()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def lead(server_dsn: str) -> Iterator[Callable[[str], str]]:
    """Rewrite connection strings to lead through the pooler if PGQUE_TEST_POOLER is set."""
    if not POOLED:
        yield lambda dsn: dsn
    else:
        with running_pooler(server_dsn) as pooler:
            yield pooler.dsn


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """With PGQUE_RECORD=1, write the results of a run through the pooler."""
    if not (POOLED and os.environ.get("PGQUE_RECORD") == "1"):
        return
    outcomes = {
        outcome: len(terminalreporter.stats.get(outcome, []))
        for outcome in ("passed", "failed", "error", "skipped")
    }
    version = subprocess.run(["pgbouncer", "--version"], capture_output=True, text=True, check=True)
    run = {
        "command": "PGQUE_TEST_POOLER=1 PGQUE_RECORD=1 pytest " + " ".join(config.args),
        "pgbouncer": version.stdout.split()[1],
        "postgresql": wanted_version(),
        "pool_mode": "transaction",
        "tests": outcomes,
    }
    folder = Path(__file__).parent.parent / "docs" / "reliability"
    folder.mkdir(exist_ok=True)
    (folder / "pooler.json").write_text(json.dumps(run, indent=2) + "\n")
