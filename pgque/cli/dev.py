"""`pgque dev`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pgque.cli.options import log_to_stderr

DataDir = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder.", show_default="a folder in your home"),
]
Version = Annotated[
    int | None,
    typer.Option(
        "--pg", help="PostgreSQL's major version, 16 or 18.", show_default="the version of the data"
    ),
]


def command(data: DataDir = None, pg: Version = None) -> None:
    """Run a PostgreSQL with pgque and a ticker for development, until Ctrl-C.

    The data is kept for the next run.
    """
    from pgque.embedded import Server, default_data_dir
    from pgque.install import install
    from pgque.ticker import Ticker

    log_to_stderr()
    typer.echo("Starting PostgreSQL.")
    with Server(data or default_data_dir(), version=pg) as server:
        install(server.dsn)
        typer.echo(f"It runs with pgque until Ctrl-C. Its data is in {server.data_dir}.")
        typer.echo("Point pgque commands and your programs at it, in another terminal:\n")
        typer.echo(f"    export PGQUE_DSN={shlex.quote(server.dsn)}\n")
        Ticker(server.dsn).run()
        typer.echo("Stopping.")
