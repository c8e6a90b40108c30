"""What several commands have in common."""

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
    """Show what pgque logs, for a command that runs until it is stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


class CommandError(Exception):
    """What a command found wrong with what it was given; its text is all that is said."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status
