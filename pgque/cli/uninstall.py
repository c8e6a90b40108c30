"""`pgque uninstall`."""

from __future__ import annotations

from typing import Annotated

import typer

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_done

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def command(dsn: Dsn, yes: Yes = False, as_json: AsJson = False) -> None:
    """Drop the schema with all its queues and events."""
    import psycopg

    from pgque.errors import mapped
    from pgque.install import uninstall

    if not yes:
        with mapped:
            name = psycopg.conninfo.conninfo_to_dict(dsn).get("dbname")
        database = f"the database {name}" if name else "the default database"
        typer.confirm(f"Drop pgque and all its events from {database}?", abort=True)
    done = uninstall(dsn)
    text = "The schema pgque was dropped." if done else "There is no schema pgque."
    print_done(as_json, {"uninstalled": done}, text)
