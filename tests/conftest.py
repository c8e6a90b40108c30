"""Fixtures for every test, registered from one file per subject (``fix_*.py``)."""

import os

import hypothesis

pytest_plugins = [
    "tests.fix_server",
    "tests.fix_pooler",
    "tests.fix_database",
    "tests.fix_engine",
    "tests.fix_capture",
    "tests.fix_coop",
    "tests.fix_consumer",
    "tests.fix_kit",
    "tests.fix_restore",
    "tests.fix_ordeal",
    "tests.repeating",
    "tests.slow",
    "tests.security.fix_security",
]

# Tests talk to a database, so the duration of an example says nothing about the code.
hypothesis.settings.register_profile(
    "pgque",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("pgque")

# PostgreSQL settings in a developer's shell must not affect the tests.
for name in list(os.environ):
    if name.startswith("PG") and not name.startswith("PGQUE_"):
        del os.environ[name]
