"""What to try after the demo: its last lines."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator


def next_steps(dsn: str | None) -> Iterator[str]:
    """Yield a few commands that work where the demo was started.

    :param dsn: the database that the demo was given; None if it had a server of its own.
    """
    pgque = how_it_was_called()
    if dsn is None:
        steps = {
            f"{pgque} dev": "a PostgreSQL with pgque to try things with, until Ctrl-C",
            f"{pgque} demo --rate max": "the same week as fast as possible",
        }
    else:
        # The DSN is not repeated: it may hold a password, and screens are recorded.
        named = "" if os.environ.get("PGQUE_DSN") == dsn else " --dsn …"
        steps = {
            f"{pgque} doctor{named}": "whether the server is set up well",
            f"{pgque} queue create orders{named}": "a queue of your own",
        }
    steps[f"{pgque} --help"] = "all commands"
    width = max(map(len, steps))
    yield ""
    yield "Next:"
    for command, text in steps.items():
        yield f"    {command:<{width}}  {text}"
    if os.path.exists(os.path.join("docs", "tutorial.md")):
        yield "    docs/tutorial.md goes on from there."


def how_it_was_called() -> str:
    """Return the words by which this program can be called again from the current folder."""
    script = sys.argv[0]
    if os.path.basename(script) != "pgque":
        return f"{_shown(sys.executable)} -m pgque"
    found = shutil.which("pgque")
    if found and os.path.exists(script) and os.path.samefile(found, script):
        return "pgque"
    return _shown(script)


def _shown(path: str) -> str:
    """Return a path as short as a shell needs it."""
    here = os.getcwd() + os.sep
    return shlex.quote(path.removeprefix(here) if path.startswith(here) else path)
