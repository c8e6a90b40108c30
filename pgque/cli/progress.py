"""How far a command is, on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Takes how many bytes of the source are done, and how many events were sent."""


@contextmanager
def progress(size: int | None) -> Iterator[Advance]:
    """Show a bar with rate and time left; without ``size``, in bytes, there is no time left."""
    if not sys.stderr.isatty():
        yield lambda end, sent: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    left = TimeElapsedColumn() if size is None else TimeRemainingColumn()
    with Progress(
        TextColumn("{task.fields[sent]:,} sent"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        left,
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("", total=size, sent=0, rate=0.0)

        def advance(end: int, sent: int) -> None:
            seconds = max(bar.tasks[0].elapsed or 0, 1e-9)
            bar.update(task, completed=end, sent=sent, rate=sent / seconds)

        yield advance
