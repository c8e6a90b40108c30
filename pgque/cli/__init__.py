"""The command line, `pgque` (extra ``cli``). One file a command; `app` lists them."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the process's arguments name; the console script `pgque`."""
    try:
        from pgque.cli.app import run
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("pgque: typer is missing: pip install 'pgque[cli]'")
    sys.exit(run(sys.argv[1:]))
