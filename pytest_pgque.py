"""Pytest fixtures for applications that use pgque (extra ``testing``).

Pytest imports its plugins at each start. So this module is outside the package, and imports pgque
only when a test uses a fixture.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pgque.testing import Databases, Kit


@pytest.fixture(scope="session")
def pgque_server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A superuser's connection string to the test server, shared by workers of pytest-xdist.

    The server is ``PGQUE_TEST_DSN`` if set, else a container, else the embedded server. Override
    this fixture to use another server.
    """
    from pgque.errors import PgqueError
    from pgque.testing import find_server, shared_server

    if os.environ.get("PYTEST_XDIST_WORKER") and not os.environ.get("PGQUE_TEST_DSN"):
        server = shared_server(tmp_path_factory.getbasetemp().parent)
    else:
        server = find_server()
    with contextlib.ExitStack() as stack:
        try:
            dsn = stack.enter_context(server)
        except PgqueError as error:
            pytest.fail(str(error), pytrace=False)
        yield dsn


@pytest.fixture(scope="session")
def pgque_prepare() -> Callable[[str], object]:
    """A function called once, with the DSN of a new database in which pgque is installed.

    Override it to create tables and queues. Each test gets a copy of that database.
    """
    return lambda dsn: None


@pytest.fixture(scope="session")
def pgque_databases(pgque_server_dsn: str) -> Iterator[Databases]:
    """Creates and drops databases on the server."""
    from pgque.testing import Databases

    with Databases(pgque_server_dsn) as databases:
        yield databases


@pytest.fixture(scope="session")
def pgque_template(
    pgque_databases: Databases, pgque_prepare: Callable[[str], object]
) -> Iterator[str]:
    """The name of the template of all test databases."""
    from pgque.install import install

    dsn = pgque_databases.create()
    try:
        install(dsn)
        pgque_prepare(dsn)
        yield pgque_databases.leave(dsn)
    finally:
        pgque_databases.drop(dsn)


@pytest.fixture
def pgque_dsn(pgque_databases: Databases, pgque_template: str) -> Iterator[str]:
    """A superuser's connection string to the test's own database, with pgque installed."""
    dsn = pgque_databases.create(pgque_template)
    yield dsn
    pgque_databases.drop(dsn)


@pytest.fixture
def pgque_kit(pgque_dsn: str) -> Iterator[Kit]:
    """A `pgque.testing.Kit` on the test's own database."""
    from pgque.testing import Kit

    with Kit(pgque_dsn) as kit:
        yield kit
