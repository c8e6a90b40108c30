"""`pgque uninstall`."""

from __future__ import annotations

from typing import Annotated

import typer

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_done

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def command(dsn: Dsn, yes: Yes = False, as_json: AsJson = False) -> None:
    """Drop the schema with all queues and events in it."""
    import psycopg

    from pgque.errors import mapped
    from pgque.install import uninstall

    if not yes:
        with mapped:
            database = psycopg.conninfo.conninfo_to_dict(dsn).get("dbname", "of that name")
        typer.confirm(f"Drop pgque with all events from the database {database}?", abort=True)
    done = uninstall(dsn)
    text = "The schema pgque is gone." if done else "There was no schema pgque."
    print_done(as_json, {"uninstalled": done}, text)
