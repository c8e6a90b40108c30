"""Marks tests as slow: `pytest -m "not slow"` is the fast subset.

Slow are the suites that take minutes, and tests of the documents, the command line and the screens,
which do not depend on the server's version. CI runs them once, on PostgreSQL 18.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent

SLOW = (
    "chaos/",
    "client/test_client_prepared.py",
    "consumer/test_consumer_connection.py",
    "dashboard/test_documents.py",
    "dashboard/test_page",
    "e2e/",
    "fuzz/",
    "model/test_broken.py",
    "pooler/",
    "races/test_lock_order.py",
    "races/test_pairs.py",
    "races/test_stopped.py",
    "test_bench",
    "test_cli",
    "test_compose.py",
    "test_crash_loop.py",
    "test_deep.py",
    "test_demo",
    "test_django.py",
    "test_docs.py",
    "test_dsn.py",
    "test_embedded",
    "test_extras.py",
    "test_forks",
    "test_frameworks.py",
    "test_how_to.py",
    "test_infinite.py",
    "test_network.py",
    "test_observability.py",
    "test_readme.py",
    "test_repeating.py",
    "test_restore_identity.py",
    "test_site.py",
    "test_sqlalchemy.py",
    "test_testing_plugin.py",
    "test_threads.py",
    "test_top_cli.py",
    "test_top_screens.py",
    "test_worker.py",
    "upgrade/",
)
"""Beginnings of paths in this folder."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", 'slow: left out by -m "not slow"; see tests/slow.py')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS) and is_slow(item.path.relative_to(TESTS).as_posix()):
            item.add_marker("slow")


def is_slow(path: str) -> bool:
    """Whether a test file, by its path in this folder, is slow."""
    return path.startswith(SLOW)
