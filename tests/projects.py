"""A project that uses Alembic and Django, before it adopts pgque."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

FILES = {
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


def make_project(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files of a project."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
