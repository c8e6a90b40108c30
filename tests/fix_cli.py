"""The command line as a user runs it: each command in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

import pgque
from tests.running import PATIENCE

CHECKOUT = Path(pgque.__file__).resolve().parent.parent


def environment(**more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**plain, "NO_COLOR": "1", "TERM": "dumb", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pgque", *arguments]


def cli(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=CHECKOUT,
        env=environment(**more),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )


def failed(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """Check that a command failed with one line of error; return that line."""
    assert done.returncode == status, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pgque: ")
    return line
