"""The PostgreSQL server of a run, and a fresh database for each workload."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgque.install import install

SETTINGS: dict[str, str | int | float | bool] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": 250,
    # No checkpoint starts during a measurement: each workload begins with one.
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
    "shared_buffers": "512MB",
    # One transaction makes a thousand queues, and one drops them.
    "max_locks_per_transaction": 256,
}
"""Settings of the embedded server: durable, and PostgreSQL's defaults for the rest."""

SHOWN = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "max_wal_size",
    "shared_buffers",
    "autovacuum",
    "wal_level",
)
PACKAGES = ("pgque", "psycopg", "psycopg-binary")


class Databases:
    """Makes databases on a server for the workloads, and drops them at the end of each."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._conn = psycopg.connect(dsn, autocommit=True)
        self._names: list[str] = []

    def create(self, name: str, with_pgque: bool) -> str:
        """Make a database; return its connection string."""
        database = f"bench_{name}_{secrets.token_hex(3)}"
        self._conn.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
        self._names.append(database)
        dsn = make_conninfo(self._dsn, dbname=database)
        if with_pgque:
            install(dsn)
        return dsn

    def checkpoint(self) -> None:
        """Run a checkpoint for earlier workloads, if the role may."""
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            self._conn.execute("checkpoint")

    def drop_all(self) -> None:
        """Drop every database that this object made."""
        while self._names:
            name = sql.Identifier(self._names.pop())
            self._conn.execute(sql.SQL("drop database if exists {} with (force)").format(name))

    def environment(self) -> dict[str, Any]:
        """Describe the environment: versions, settings and cores, but not the host."""
        shown = {name: self._conn.execute(f"show {name}").fetchone() for name in SHOWN}
        return {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "postgresql": (self._conn.info.parameter_status("server_version") or "").split()[0],
            "python": platform.python_version(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "machine": platform.machine(),
            "packages": versions(PACKAGES),
            "settings": {name: row[0] for name, row in shown.items() if row},
        }

    def close(self) -> None:
        """Drop the databases and disconnect."""
        self.drop_all()
        self._conn.close()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@contextlib.contextmanager
def databases(dsn: str | None) -> Iterator[Databases]:
    """Start the embedded server, or use the one at ``dsn``."""
    with contextlib.ExitStack() as stack:
        if dsn is None:
            from pgque.embedded import Server

            dsn = stack.enter_context(Server(version=18, settings=SETTINGS)).dsn
        made = Databases(dsn)
        stack.callback(made.close)
        yield made
