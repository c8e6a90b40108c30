"""`pgque dump`."""

from __future__ import annotations

from typing import Annotated

import typer

from pgque.cli.options import Dsn

CONTEXT = {"ignore_unknown_options": True}
"""Options that pgque does not know belong to pg_dump."""


def command(
    dsn: Dsn,
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PG_DUMP OPTIONS]...",
            help="Passed to pg_dump, for example --format=custom --file=shop.dump",
            show_default=False,
        ),
    ] = None,
    pg_dump: Annotated[
        str, typer.Option("--pg-dump", help="The pg_dump to run: a name or a path.")
    ] = "pg_dump",
) -> None:
    """Run pg_dump so that no rotation leaves a hole in the dump.

    Locks pgque's tables against rotation before pg_dump takes its snapshot. Nothing else stops.
    """
    from pgque.dump import dump

    status = dump(dsn, options or (), program=pg_dump)
    if status:
        raise typer.Exit(status)
