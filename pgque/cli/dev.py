"""`pgque dev`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pgque.cli.options import log_to_stderr

DataDir = Annotated[
    Path | None,
    typer.Option("--data", help="The folder of the data.", show_default="a folder of the user's"),
]
Version = Annotated[
    int | None,
    typer.Option("--pg", help="PostgreSQL's major version, 16 or 18.", show_default="the data's"),
]


def command(data: DataDir = None, pg: Version = None) -> None:
    """Run a PostgreSQL with pgque and a ticker for development, until Ctrl-C.

    The data are kept for the next time.
    """
    from pgque.embedded import Server, default_data_dir
    from pgque.install import install
    from pgque.ticker import Ticker

    log_to_stderr()
    typer.echo("Starting PostgreSQL.")
    with Server(data or default_data_dir(), version=pg) as server:
        install(server.dsn)
        typer.echo(f"It runs with pgque until Ctrl-C; its data are in {server.data_dir}.")
        typer.echo("In another terminal, let every pgque command and your programs find it:\n")
        typer.echo(f"    export PGQUE_DSN={shlex.quote(server.dsn)}\n")
        Ticker(server.dsn).run()
        typer.echo("Stopping.")
