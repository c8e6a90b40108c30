"""README.md: its commands come first, and its samples work in real projects."""

import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest

from tests.samples import ROOT, reader, steps, to_url

README = ROOT / "README.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that uses Alembic and Django, as it was before it met pgque."""
    files = {
        "alembic.ini": """
            [alembic]
            script_location = %(here)s/migrations
            """,
        "migrations/env.py": """
            import os

            from alembic import context
            from sqlalchemy import create_engine

            url = os.environ["PGQUE_DSN"].replace("postgresql:", "postgresql+psycopg:")
            with create_engine(url).connect() as connection:
                context.configure(connection=connection)
                with context.begin_transaction():
                    context.run_migrations()
            """,
        "migrations/versions/0001_begin.py": """
            revision = "0001"
            down_revision = None

            def upgrade():
                pass

            def downgrade():
                pass
            """,
        "manage.py": """
            import os
            import sys

            from django.core.management import execute_from_command_line

            os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
            execute_from_command_line(sys.argv)
            """,
        "settings.py": """
            import os

            from psycopg.conninfo import conninfo_to_dict

            parts = conninfo_to_dict(os.environ["PGQUE_DSN"])
            DATABASES = {"default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": parts["dbname"],
                "USER": parts["user"],
                "PASSWORD": parts.get("password", ""),
                "HOST": parts["host"],
                "PORT": parts["port"],
            }}
            DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
            INSTALLED_APPS = ["shop"]
            USE_TZ = True
            """,
        "shop/__init__.py": "",
        "shop/models.py": """
            from django.db import models

            class Order(models.Model):
                customer = models.TextField()

                class Meta:
                    db_table = "orders"
                    managed = False
            """,
        "shop/migrations/__init__.py": "",
        "shop/migrations/0001_initial.py": """
            from django.db import migrations

            class Migration(migrations.Migration):
                initial = True
            """,
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


def test_samples(
    project: Path, home: Path, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reader(project, home, monkeypatch, to_url(empty_dsn)) as newcomer:
        newcomer.read(README)
        # The migrations go back as well.
        for command in ("-m alembic downgrade 0001", "manage.py migrate shop 0001 --verbosity 0"):
            subprocess.run([sys.executable, *command.split()], env=newcomer.env, check=True)
    with psycopg.connect(empty_dsn) as conn:
        consumers = conn.execute("select consumer_name from pgque.get_consumer_info('orders')")
        assert consumers.fetchall() == [("shipping",)]


def test_the_two_commands_come_first() -> None:
    first, second, *_ = (step for step in steps(README) if step.language)
    assert first.language == second.language == "sh"
    assert first.text.count("\n") == second.text.count("\n") == 1
    assert first.text.endswith(".venv/bin/pgque demo\n")
    assert second.text.endswith(".venv/bin/pytest\n")


def test_ci_runs_the_two_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_block 1" in script
    assert "readme_block 2" in script


def test_it_says_what_it_is_in_ten_lines() -> None:
    head = README.read_text().split("\n## ", 1)[0]
    lines = [line for line in head.splitlines()[1:] if line]
    assert len(lines) <= 10
