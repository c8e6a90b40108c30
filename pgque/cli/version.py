"""`pgque version`."""

from __future__ import annotations

from importlib import metadata

import typer

from pgque.cli.options import OptionalDsn
from pgque.cli.output import AsJson, print_json


def command(dsn: OptionalDsn = None, as_json: AsJson = False) -> None:
    """Print this client's version and, with --dsn, those of the schema and the server."""
    from pgque.install import SCHEMA_VERSION, server_versions

    client = metadata.version("pgque")
    found = None if dsn is None else server_versions(dsn)
    if as_json:
        versions: dict[str, object] = {"client": client, "client_schema": SCHEMA_VERSION}
        if found is not None:
            versions |= {"schema": found.schema, "server": found.server}
        print_json(versions)
        return
    typer.echo(f"client  {client}, for schema version {SCHEMA_VERSION}")
    if found is not None:
        typer.echo(f"schema  {found.schema or 'not installed'}")
        typer.echo(f"server  PostgreSQL {found.server}")
