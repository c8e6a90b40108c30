"""The PostgreSQL server of a test run.

`PGQUE_TEST_DSN`, a superuser's connection string, where it is set; else a container where a
Docker engine answers; else the embedded server. `PGQUE_TEST_PG` picks the version of the
latter two. Under pytest-xdist each worker has a server of its own, but for the first case.
"""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgque import embedded

DOCKER_SOCKETS = ("/var/run/docker.sock", "~/.docker/run/docker.sock")
MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 2 * 1024**3

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "max_prepared_transactions": "20",
}


def wanted_version() -> int:
    return int(os.environ.get("PGQUE_TEST_PG", "18"))


def docker_answers() -> bool:
    sockets = [Path(path).expanduser() for path in DOCKER_SOCKETS]
    if not os.environ.get("DOCKER_HOST") and not any(path.exists() for path in sockets):
        return False
    import docker

    with warnings.catch_warnings(), contextlib.suppress(docker.errors.DockerException):
        warnings.simplefilter("ignore")
        client = docker.from_env(timeout=3)
        try:
            return bool(client.ping())
        finally:
            client.close()
    return False


def pytest_report_header() -> str:
    if os.environ.get("PGQUE_TEST_DSN"):
        return "postgresql: from PGQUE_TEST_DSN"
    kind = "container" if docker_answers() else "embedded"
    return f"postgresql: {kind}, version {wanted_version()}"


def temporary_in() -> Path | None:
    """Where a cluster's many small files are made fastest, None for the usual place."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    room = os.statvfs(MEMORY)
    return MEMORY if room.f_bavail * room.f_frsize > MEMORY_NEEDED else None


def embedded_server(**options: object) -> embedded.Server:
    """Make an embedded server for tests, not started."""
    settings = {**SETTINGS, **options.pop("settings", {})}
    return embedded.Server(settings=settings, temporary_in=temporary_in(), **options)


@contextlib.contextmanager
def container() -> Iterator[str]:
    from testcontainers.postgres import PostgresContainer

    command = ["postgres"]
    for name, value in SETTINGS.items():
        command += ["-c", f"{name}={value}"]
    image = f"postgres:{wanted_version()}"
    with PostgresContainer(image, driver=None).with_command(command) as server:
        yield server.get_connection_url()


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A superuser's connection string to the server that all tests share."""
    given = os.environ.get("PGQUE_TEST_DSN")
    if given:
        yield given
    elif docker_answers():
        with container() as dsn:
            yield dsn
    else:
        with embedded_server(version=wanted_version()) as server:
            yield server.dsn


@pytest.fixture(scope="module")
def own_server() -> Iterator[embedded.Server]:
    """A server of the module's own, for what changes a whole cluster: roles, crashes."""
    version = wanted_version() if wanted_version() in embedded.VERSIONS else None
    with embedded_server(version=version) as server:
        yield server


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that the account which runs PostgreSQL for root can reach."""
    path = Path(tempfile.mkdtemp(prefix="pgque-test-", dir=temporary_in()))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def new_server() -> Iterator[Callable[..., embedded.Server]]:
    """Start embedded servers with the options given; all are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(**options: object) -> embedded.Server:
            return stack.enter_context(embedded_server(**options))

        yield start
