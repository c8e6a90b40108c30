"""`pgque demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from pgque.cli.options import OptionalDsn

Rate = Annotated[
    float | None,
    typer.Option("--rate", min=0.1, help="Flights sent per second.", show_default=False),
]


def command(dsn: OptionalDsn = None, rate: Rate = None) -> None:
    """Send a week of real flights through a real PostgreSQL, and count them."""
    from pgque.demo import main

    raise typer.Exit(main(dsn=dsn, rate=rate))
