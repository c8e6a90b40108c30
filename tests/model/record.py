"""Figures of a run, written to docs/reliability/model.json with PGQUE_RECORD=1.

A run replaces the figures of the previous run on the same version of PostgreSQL. Use `-n 0`,
because two processes would overwrite each other's figures.
"""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.fix_engine import LONG, Connection, value

FILE = Path(__file__).parents[2] / "docs" / "reliability" / "model.json"
WANTED = os.environ.get("PGQUE_RECORD") == "1"


def record(conn: Connection, subject: str, name: str | None, figures: dict[str, object]) -> None:
    """Record the figures of a subject, by name if it has several."""
    if not WANTED:
        return
    server = value(conn, "show server_version").split()[0]
    kept: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    of_version = kept.setdefault(f"PostgreSQL {server.split('.')[0]}", {})
    figures = {"server": server, "hypothesis": version("hypothesis"), **figures}
    if name is None:
        of_version[subject] = figures
    else:
        of_version.setdefault(subject, {})[name] = figures
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def command(test: str) -> str:
    """Return the command that repeats the run on the same version of PostgreSQL."""
    long = "PGQUE_LONG=1 " if LONG else ""
    return f"{long}PGQUE_RECORD=1 .venv/bin/pytest -n 0 tests/model/{test}"
