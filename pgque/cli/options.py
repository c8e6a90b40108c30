"""Options and helpers shared by several commands."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

_DSN = typer.Option(
    "--dsn",
    envvar="PGQUE_DSN",
    help="The database, as a connection string or a URL.",
    show_default=False,
)

Dsn = Annotated[str, _DSN]
OptionalDsn = Annotated[str | None, _DSN]


def log_to_stderr() -> None:
    """Log to standard error, for commands that run until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


class CommandError(Exception):
    """A command cannot do what it was asked. Only the text is shown, without a traceback."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status
