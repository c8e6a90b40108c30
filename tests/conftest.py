"""What every test may use; the fixtures themselves are in one file a subject."""

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

# Tests talk to a database: how long an example takes says nothing about the code.
hypothesis.settings.register_profile(
    "pgque",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("pgque")

# What a developer's shell says about PostgreSQL is not what the tests are about.
for name in list(os.environ):
    if name.startswith("PG") and not name.startswith("PGQUE_"):
        del os.environ[name]
