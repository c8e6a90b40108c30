"""`pgque version`."""

from __future__ import annotations

from importlib import metadata

import typer

from pgque.cli.options import OptionalDsn


def command(dsn: OptionalDsn = None) -> None:
    """Print this client's version and, with --dsn, the schema's and the server's."""
    from pgque.install import SCHEMA_VERSION, server_versions

    typer.echo(f"client  {metadata.version('pgque')}, for schema version {SCHEMA_VERSION}")
    if dsn is not None:
        found = server_versions(dsn)
        typer.echo(f"schema  {found.schema or 'not installed'}")
        typer.echo(f"server  PostgreSQL {found.server}")
