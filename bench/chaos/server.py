"""The server of a run: a cluster on a small disk of its own, on which much can be done to it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench.chaos.clock import Clock, ServerWithClock, find_library
from pgque.embedded import EmbeddedError, Server

DISK_MB = 1024
SETTINGS: dict[str, str | int | float | bool] = {
    "max_connections": 60,
    "max_wal_size": "128MB",
    "min_wal_size": "64MB",
    "shared_buffers": "64MB",
    # Else a crash at PANIC, as of a full disk, would be the end of the server.
    "restart_after_crash": True,
}
UNHARMED = (
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 "
    "-c default_transaction_read_only=off"
)
"""Options of the run's own sessions, so that what it sets for others does not hit itself."""
PATIENCE = 60.0


class ChaosServer:
    """An embedded server, or somebody else's: of that one only sessions can be ended."""

    def __init__(self, dsn: str | None, version: int, disk: Path | None) -> None:
        self._given = dsn
        self.password = None if dsn is None else secrets.token_urlsafe()
        """Of the role that the processes connect as; our own server asks for none."""
        self._disk = disk
        self._server: Server | None = None
        self.clock: Clock | None = None
        """The server's own clock; None if libfaketime is missing or the server is not ours."""
        if dsn is None:
            data = None if disk is None else disk / "cluster"
            library = find_library()
            self.clock = Clock(library) if library is not None else None
            options: dict[str, Any] = {"version": version, "settings": SETTINGS}
            self._server = ServerWithClock(data, clock=self.clock, **options).start()

    @property
    def own(self) -> bool:
        """Whether it may be restarted and reconfigured."""
        return self._server is not None

    @property
    def has_disk(self) -> bool:
        """Whether it has a disk of its own that can be filled."""
        return self._disk is not None

    @property
    def dsn(self) -> str:
        """The run's own connection string, past the proxy."""
        dsn = self._given or (self._server.dsn if self._server else "")
        return make_conninfo(dsn, options=UNHARMED, application_name="chaos control")

    def upstream(self) -> str | tuple[str, int]:
        """What a proxy connects to."""
        with self.control() as conn:
            host, port = conn.info.host, conn.info.port
        return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)

    def dsn_through(self, port: int, role: str) -> str:
        """The connection string of an application, through a proxy on a local port."""
        dbname = conninfo_to_dict(self.dsn)["dbname"]
        given: dict[str, str | int | None] = {"host": "127.0.0.1", "port": port, "dbname": dbname}
        given |= {"user": role, "password": self.password, "gssencmode": "disable"}
        return make_conninfo("", **given)

    @contextlib.contextmanager
    def control(self) -> Iterator[psycopg.Connection]:
        """Yield a superuser's session in autocommit, as soon as one can be had."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                conn = psycopg.connect(self.dsn, autocommit=True, connect_timeout=5)
                break
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with contextlib.closing(conn):
            yield conn

    @property
    def programs(self) -> Path:
        """The folder with pg_dump and the like, of our own server's version."""
        assert self._server is not None
        return self._server.bin_dir

    def dsn_of(self, dbname: str) -> str:
        """Return the run's own connection string to another database."""
        return make_conninfo(self.dsn, dbname=dbname)

    def restart(self, immediate: bool) -> None:
        """Restart it, fast or at once as by a crash."""
        assert self._server is not None
        self._server.restart("immediate" if immediate else "fast")

    def fill_disk(self) -> None:
        """Leave no room on its disk."""
        assert self._disk is not None
        with (self._disk / "ballast").open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass

    def clear_disk(self) -> bool:
        """Make room again; start the server where that has ended: tell whether it had."""
        assert self._disk is not None
        (self._disk / "ballast").unlink(missing_ok=True)
        return self.revive()

    def revive(self) -> bool:
        """Start the server again if it does not answer within some seconds."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn, connect_timeout=2).close()
                return False
            time.sleep(0.1)
        self.restart(immediate=True)
        return True

    def stop(self) -> None:
        """Stop what was started."""
        if self._server is not None:
            with contextlib.suppress(EmbeddedError):
                self._server.stop()
        if self.clock is not None:
            self.clock.close()


@contextlib.contextmanager
def small_disk() -> Iterator[Path | None]:
    """Mount a tmpfs of its own, where that is permitted; else yield None."""
    where = Path(tempfile.mkdtemp(prefix="pgque-chaos-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0711", "tmpfs", str(where)]
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    if mounted:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield where if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(where)], check=False)
        shutil.rmtree(where, ignore_errors=True)
