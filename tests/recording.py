"""Figures of long runs, which the runs write themselves if PGQUE_RECORD=1 is set."""

import fcntl
import json
import os
import tempfile
from pathlib import Path

from tests.fix_engine import LONG, Connection, value

FOLDER = Path(__file__).parent.parent / "docs" / "reliability"
RECORD = os.environ.get("PGQUE_RECORD") == "1"
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))

Figures = dict[str, "int | float | Figures"]


def record(conn: Connection, room: str, part: str, tests: str, figures: Figures) -> None:
    """Write this run's figures to docs/reliability/<room>.json, replacing an earlier run's."""
    if not RECORD:
        return
    version = str(value(conn, "show server_version")).split()[0]
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{room}.json"
    with (Path(tempfile.gettempdir()) / f"pgque-{room}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = json.loads(path.read_text()) if path.exists() else {}
        key = f"{part}, PostgreSQL {version.partition('.')[0]}"
        run = runs.get(key, {})
        if run.get("run") != RUN:
            run = {"command": _command(tests), "postgresql": version, "run": RUN, "figures": {}}
        _add(run["figures"], figures)
        runs[key] = run
        path.write_text(json.dumps(runs, indent=2, sort_keys=True) + "\n")


def _command(tests: str) -> str:
    words = ["PGQUE_LONG=1"] if LONG else []
    words.append("PGQUE_RECORD=1")
    if os.environ.get("PGQUE_TEST_DSN"):
        words.append("PGQUE_TEST_DSN=...")
    elif "PGQUE_TEST_PG" in os.environ:
        words.append(f"PGQUE_TEST_PG={os.environ['PGQUE_TEST_PG']}")
    return " ".join([*words, "pytest", tests])


def _add(total: Figures, more: Figures) -> None:
    for name, figure in more.items():
        if isinstance(figure, dict):
            inner = total.setdefault(name, {})
            assert isinstance(inner, dict)
            _add(inner, figure)
        else:
            before = total.get(name, 0)
            assert not isinstance(before, dict)
            total[name] = round(before + figure, 1)
