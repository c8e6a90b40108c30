"""The command line, `pgque` (extra ``cli``). Each command has its own file; `app` lists them."""

from __future__ import annotations

import sys

from pgque._extras import advice


def main() -> None:
    """Run the command named on the command line. The console script `pgque` calls this."""
    try:
        from pgque.cli.app import run
    except ModuleNotFoundError as error:
        text = advice(error)
        if text is None:
            raise
        sys.exit(f"pgque: {text}")
    sys.exit(run(sys.argv[1:]))
