"""Uninstalling the schema."""

import psycopg

from pgque.install import install, schema_version, uninstall
from tests.test_install import roles


def test_uninstall_removes_the_schema_and_keeps_the_roles(empty_dsn: str) -> None:
    assert not uninstall(empty_dsn)
    install(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("select pgque.create_queue('q')")
        before = roles(conn)
    assert uninstall(empty_dsn)
    assert schema_version(empty_dsn) is None
    with psycopg.connect(empty_dsn) as conn:
        assert roles(conn) == before, "other databases may use the roles"
    install(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute("select count(*) from pgque.queue").fetchone() == (0,)
