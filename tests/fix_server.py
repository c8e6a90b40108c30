"""The PostgreSQL server of a test run; `pgque.testing.server` describes how it is found.

Under pytest-xdist each worker has its own server, unless `PGQUE_TEST_DSN` names one, because some
tests look at roles, transactions and sessions of the whole cluster.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgque import embedded
from pgque.testing.server import (
    SETTINGS,
    docker_answers,
    embedded_server,
    find_server,
    temporary_in,
    wanted_version,
)

__all__ = ["SETTINGS", "embedded_server", "temporary_in", "wanted_version"]


def pytest_report_header() -> str:
    if os.environ.get("PGQUE_TEST_DSN"):
        return "postgresql: from PGQUE_TEST_DSN"
    kind = "container" if docker_answers() else "embedded"
    return f"postgresql: {kind}, version {wanted_version()}"


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A superuser's connection string to the server that all tests share."""
    with find_server() as dsn:
        yield dsn


@pytest.fixture(scope="module")
def own_server() -> Iterator[embedded.Server]:
    """A server for one module, for tests that change the whole cluster: roles, crashes."""
    version = wanted_version() if wanted_version() in embedded.VERSIONS else None
    with embedded_server(version=version) as server:
        yield server


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that is open to the account that runs PostgreSQL when the tests run as root."""
    path = Path(tempfile.mkdtemp(prefix="pgque-test-", dir=temporary_in()))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def new_server() -> Iterator[Callable[..., embedded.Server]]:
    """Start embedded servers with the given options; all of them are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(**options: object) -> embedded.Server:
            return stack.enter_context(embedded_server(**options))

        yield start
