"""`pgque top`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pgque._extras import need
from pgque.cli.options import CommandError, Dsn

Interval = Annotated[
    float, typer.Option("--interval", "-i", min=0.1, help="Seconds between refreshes.")
]
Queue = Annotated[
    str | None, typer.Option("--queue", help="Start with this queue's screen.", show_default=False)
]


def command(dsn: Dsn, interval: Interval = 1.0, queue: Queue = None) -> None:
    """Watch queues and consumers live in a terminal. Press ? for the keys and q to quit.

    It shows events, retries and dead letters without consuming them, and can replay or delete dead
    letters after a confirmation. Needs pgque_reader; replay needs pgque_writer, and deleting needs
    pgque_admin.
    """
    need("textual")  # before the check for a terminal, so that this error comes first
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError("top needs a terminal; `pgque queue list` and `pgque status` print once")
    from pgque.top.app import run
    from pgque.top.source import Source

    source = Source(dsn)
    first = source.look()
    if queue is not None and queue not in {now.queue for now in first.queues}:
        raise CommandError(f"queue not found: {queue}")
    raise typer.Exit(run(source, first, interval=interval, queue=queue))
