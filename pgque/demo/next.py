"""Suggests what to try after the demo."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator


def next_steps(dsn: str | None) -> Iterator[str]:
    """Yield lines with a few commands that work in the current folder.

    :param dsn: the database given to the demo; None if it started its own server.
    """
    pgque = how_it_was_called()
    if dsn is None:
        steps = {
            f"{pgque} dev": "run a PostgreSQL with pgque to experiment with, until Ctrl-C",
            f"{pgque} demo --rate max": "send the same week as fast as possible",
        }
    else:
        # Do not repeat the DSN: it may hold a password, and screens are recorded.
        named = "" if os.environ.get("PGQUE_DSN") == dsn else " --dsn …"
        steps = {
            f"{pgque} doctor{named}": "check the server and the queues",
            f"{pgque} queue create orders{named}": "create your own queue",
        }
    steps[f"{pgque} --help"] = "list all commands"
    width = max(map(len, steps))
    yield ""
    yield "Next:"
    for command, text in steps.items():
        yield f"    {command:<{width}}  {text}"
    if os.path.exists(os.path.join("docs", "tutorial.md")):
        yield "    docs/tutorial.md continues from here."


def how_it_was_called() -> str:
    """Return how to call this program again from the current folder."""
    script = sys.argv[0]
    if os.path.basename(script) != "pgque":
        return f"{_shown(sys.executable)} -m pgque"
    found = shutil.which("pgque")
    if found and os.path.exists(script) and os.path.samefile(found, script):
        return "pgque"
    return _shown(script)


def _shown(path: str) -> str:
    """Return a path relative to the current folder, if possible, quoted for a shell."""
    here = os.getcwd() + os.sep
    return shlex.quote(path.removeprefix(here) if path.startswith(here) else path)
