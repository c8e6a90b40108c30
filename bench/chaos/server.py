"""The server of a run: a cluster on its own small disk, which faults restart and fill."""

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
    # Otherwise a PANIC, for example on a full disk, would end the server for good.
    "restart_after_crash": True,
}
UNHARMED = (
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 "
    "-c default_transaction_read_only=off"
)
"""Options of the run's own sessions, which protect them from the settings it changes."""
PATIENCE = 60.0


class ChaosServer:
    """An embedded server, or the user's own, where faults can only end sessions."""

    def __init__(self, dsn: str | None, version: int, disk: Path | None) -> None:
        self._given = dsn
        self.password = None if dsn is None else secrets.token_urlsafe()
        """The password of the processes' role. The embedded server needs none."""
        self._disk = disk
        self._server: Server | None = None
        self.clock: Clock | None = None
        """The server's clock; None without libfaketime or on the user's own server."""
        if dsn is None:
            data = None if disk is None else disk / "cluster"
            library = find_library()
            self.clock = Clock(library) if library is not None else None
            options: dict[str, Any] = {"version": version, "settings": SETTINGS}
            self._server = ServerWithClock(data, clock=self.clock, **options).start()

    @property
    def own(self) -> bool:
        """Whether the server is embedded, so that it can be restarted and reconfigured."""
        return self._server is not None

    @property
    def has_disk(self) -> bool:
        """Whether it has its own disk, which can be filled."""
        return self._disk is not None

    @property
    def dsn(self) -> str:
        """The run's own connection string, which bypasses the proxy."""
        dsn = self._given or (self._server.dsn if self._server else "")
        return make_conninfo(dsn, options=UNHARMED, application_name="chaos control")

    def upstream(self) -> str | tuple[str, int]:
        """Return the socket, or host and port, that a proxy connects to."""
        with self.control() as conn:
            host, port = conn.info.host, conn.info.port
        return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)

    def dsn_through(self, port: int, role: str) -> str:
        """Return an application's connection string, through a proxy on a local port."""
        dbname = conninfo_to_dict(self.dsn)["dbname"]
        given: dict[str, str | int | None] = {"host": "127.0.0.1", "port": port, "dbname": dbname}
        given |= {"user": role, "password": self.password, "gssencmode": "disable"}
        return make_conninfo("", **given)

    @contextlib.contextmanager
    def control(self) -> Iterator[psycopg.Connection]:
        """Yield a superuser's session in autocommit mode. Retry until the server accepts one."""
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
        """The folder with the embedded server's programs, such as pg_dump."""
        assert self._server is not None
        return self._server.bin_dir

    def dsn_of(self, dbname: str) -> str:
        """Return the run's own connection string to another database."""
        return make_conninfo(self.dsn, dbname=dbname)

    def restart(self, immediate: bool) -> None:
        """Restart it in fast mode, or in immediate mode like a crash."""
        assert self._server is not None
        self._server.restart("immediate" if immediate else "fast")

    def fill_disk(self) -> None:
        """Fill its disk."""
        assert self._disk is not None
        with (self._disk / "ballast").open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass

    def clear_disk(self) -> bool:
        """Free the disk, and start the server if it has ended. Return whether it had."""
        assert self._disk is not None
        (self._disk / "ballast").unlink(missing_ok=True)
        return self.revive()

    def revive(self) -> bool:
        """Start the server again if it does not answer within a few seconds."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn, connect_timeout=2).close()
                return False
            time.sleep(0.1)
        self.restart(immediate=True)
        return True

    def stop(self) -> None:
        """Stop the embedded server."""
        if self._server is not None:
            with contextlib.suppress(EmbeddedError):
                self._server.stop()
        if self.clock is not None:
            self.clock.close()


@contextlib.contextmanager
def small_disk() -> Iterator[Path | None]:
    """Mount a tmpfs and yield its path, or None if mounting is not permitted."""
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
