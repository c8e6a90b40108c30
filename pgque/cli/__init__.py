"""The command line, `pgque` (extra ``cli``). One file a command; `app` lists them."""

from __future__ import annotations

import sys

from pgque._extras import advice


def main() -> None:
    """Run the command that the process's arguments name; the console script `pgque`."""
    try:
        from pgque.cli.app import run
    except ModuleNotFoundError as error:
        text = advice(error)
        if text is None:
            raise
        sys.exit(f"pgque: {text}")
    sys.exit(run(sys.argv[1:]))
