"""`pgque install`."""

from __future__ import annotations

import typer

from pgque.cli.options import Dsn


def command(dsn: Dsn) -> None:
    """Install the schema in a database, or bring it up to date.

    Needs the right to create a schema, and to create roles where pgque's are missing.
    """
    from pgque.install import install

    typer.echo(f"The schema pgque is installed, version {install(dsn)}.")
