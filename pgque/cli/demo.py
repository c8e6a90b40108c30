"""`pgque demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from pgque.cli.options import OptionalDsn
from pgque.demo import DEFAULT_RATE, main, parse_rate

Rate = Annotated[
    str,
    typer.Option(
        "--rate",
        metavar="NUMBER|max",
        help="Flights sent per second; max is as fast as possible.",
    ),
]
Plain = Annotated[
    bool | None,
    typer.Option(
        "--plain/--live",
        help="Plain lines or a live display. The default depends on whether this is a terminal.",
        show_default=False,
    ),
]


def command(dsn: OptionalDsn = None, rate: Rate = f"{DEFAULT_RATE:g}", plain: Plain = None) -> None:
    """Send a week of real flights through a real PostgreSQL and check that none is lost."""
    try:
        events_per_second = parse_rate(rate)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rate") from error
    raise typer.Exit(main(dsn=dsn, rate=events_per_second, plain=plain))
