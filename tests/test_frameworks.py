"""docs/frameworks.md and docs/testing.md: their samples run in real projects."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import psycopg
import pytest
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy.ext.asyncio import create_async_engine

from pgque import ClientPool, PgqueClient, PgqueInvalidArgument
from pgque.testing import Kit
from tests.projects import FILES, make_project
from tests.samples import ROOT, Reader, reader, to_url

DOCS = ROOT / "docs"

SHOP = {
    **FILES,
    "settings.py": FILES["settings.py"]
    + """
        DATABASES["default"]["ATOMIC_REQUESTS"] = True
        ALLOWED_HOSTS = ["testserver"]
        ROOT_URLCONF = "shop.urls"
        SECRET_KEY = "of a test"
        """,
    "shop/urls.py": """
        from django.urls import path
        from django.utils.module_loading import import_string

        def place_order(request):  # the page defines it after the migrations
            return import_string("shop.views.place_order")(request)

        urlpatterns = [path("orders", place_order)]
        """,
    "shop/models.py": """
        from django.db import models

        class Order(models.Model):
            customer = models.TextField()

        class Bill(models.Model):
            order = models.ForeignKey(Order, models.CASCADE)
        """,
    "shop/migrations/0001_initial.py": """
        from django.db import migrations, models

        class Migration(migrations.Migration):
            initial = True
            operations = [
                migrations.CreateModel("Order", [
                    ("id", models.BigAutoField(primary_key=True)),
                    ("customer", models.TextField()),
                ]),
                migrations.CreateModel("Bill", [
                    ("id", models.BigAutoField(primary_key=True)),
                    ("order", models.ForeignKey("shop.Order", models.CASCADE)),
                ]),
            ]
        """,
}


@pytest.fixture
def project(
    tmp_path: Path, home: Path, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    """A reader in a project that uses Alembic and Django, and a database without pgque."""
    make_project(tmp_path, SHOP)
    with reader(tmp_path, home, monkeypatch, to_url(empty_dsn)) as one:
        yield one


def test_samples_of_the_frameworks_page_run(project: Reader) -> None:
    project.read(DOCS / "frameworks.md")
    # The migrations can also be reverted.
    for command in ("-m alembic downgrade 0001", "manage.py migrate shop 0001 --verbosity 0"):
        subprocess.run([sys.executable, *command.split()], env=project.env, check=True)
    with psycopg.connect(project.dsn) as conn:
        assert conn.execute(
            "select count(*) from pgque.get_consumer_info('orders')"
        ).fetchone() == (0,)


def test_samples_of_the_testing_page_run(
    tmp_path: Path,
    home: Path,
    dsn: str,
    server_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGQUE_TEST_DSN", server_dsn)
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_pgque")  # once installed, it loads itself
    with reader(tmp_path, home, monkeypatch, to_url(dsn)) as tester:
        tester.read(DOCS / "testing.md")


INSTALL_AND_FAIL = {
    "migrations/versions/0002_pgque.py": """
        from alembic import op
        from pgque.install import install

        revision = "0002"
        down_revision = "0001"

        def upgrade():
            install(op.get_bind().connection.driver_connection)
            raise ValueError("half way")
        """,
    "shop/migrations/0002_pgque.py": """
        from django.db import migrations
        from pgque.install import install

        def install_pgque(apps, schema_editor):
            schema_editor.execute("select 1")
            install(schema_editor.connection.connection)

        def fail(apps, schema_editor):
            raise ValueError("half way")

        class Migration(migrations.Migration):
            dependencies = [("shop", "0001_initial")]
            operations = [migrations.RunPython(install_pgque), migrations.RunPython(fail)]
        """,
}


@pytest.mark.parametrize("command", ["-m alembic upgrade head", "manage.py migrate"])
def test_a_failed_migration_leaves_no_schema(project: Reader, command: str) -> None:
    make_project(project.folder, INSTALL_AND_FAIL)
    done = subprocess.run(
        [sys.executable, *command.split()], env=project.env, capture_output=True, text=True
    )
    assert "half way" in done.stderr
    with psycopg.connect(project.dsn) as conn:
        assert conn.execute("select to_regnamespace('pgque')").fetchone() == (None,)


@pytest.mark.parametrize(("fails", "status"), [(False, 200), (True, 500)])
def test_a_request_is_answered_after_the_commit(
    dsn: str, queue: str, autoconn: psycopg.Connection, fails: bool, status: int
) -> None:
    autoconn.execute("create table orders (id int unique deferrable initially deferred)")
    app = FastAPI()

    def transaction() -> Iterator[PgqueClient]:
        with pool.client() as client:
            yield client

    @app.post("/orders")
    def place_order(
        client: Annotated[PgqueClient, Depends(transaction, scope="function")],
    ) -> int:
        for _ in range(1 + fails):  # the second insert fails at the commit
            client.conn.execute("insert into orders values (1)")
        return client.send(queue, {"order": 1})

    async def post() -> int:
        transport = ASGITransport(app, raise_app_exceptions=False)
        async with AsyncClient(transport=transport, base_url="http://api") as browser:
            return (await browser.post("/orders")).status_code

    with ClientPool(dsn) as pool:
        assert asyncio.run(post()) == status
    with Kit(autoconn) as kit:
        kit.assert_sent(queue, {"order": 1}, times=0 if fails else 1)


def test_an_async_engine_is_refused_with_an_explanation(dsn: str) -> None:
    async def refuse() -> None:
        engine = create_async_engine(to_url(dsn).replace("postgresql:", "postgresql+psycopg:"))
        async with engine.connect() as connection:
            inner = await connection.get_raw_connection()
            with pytest.raises(PgqueInvalidArgument, match=r"not psycopg.*AsyncConnection"):
                PgqueClient(inner.driver_connection)
        await engine.dispose()

    asyncio.run(refuse())
