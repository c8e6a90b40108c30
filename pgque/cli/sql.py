"""`pgque sql`."""

from __future__ import annotations

import typer


def command() -> None:
    """Print the schema as one SQL script, for example for a managed server's console."""
    from pgque.install import script

    typer.echo(script(), nl=False)
