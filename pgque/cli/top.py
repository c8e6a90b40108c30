"""`pgque top`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pgque._extras import need
from pgque.cli.options import CommandError, Dsn

Interval = Annotated[
    float, typer.Option("--interval", "-i", min=0.1, help="Seconds between two looks.")
]
Queue = Annotated[
    str | None, typer.Option("--queue", help="Begin with this queue.", show_default=False)
]


def command(dsn: Dsn, interval: Interval = 1.0, queue: Queue = None) -> None:
    """Watch queues and consumers live, in a terminal: ? shows the keys, q quits.

    Events, retries and dead letters can be looked at without consuming them; dead letters can be
    sent again or deleted after a yes. Needs pgque_reader, and pgque_writer or pgque_admin for that.
    """
    need("textual")  # said also where there is no terminal
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError("top needs a terminal; pgque queue list and pgque status print once")
    from pgque.top.app import run
    from pgque.top.source import Source

    source = Source(dsn)
    first = source.look()
    if queue is not None and queue not in {now.queue for now in first.queues}:
        raise CommandError(f"queue not found: {queue}")
    raise typer.Exit(run(source, first, interval=interval, queue=queue))
