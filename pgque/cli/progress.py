"""A progress bar on standard error, if that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int], None]
"""Called with the bytes of the source that are done and the number of events sent."""


@contextmanager
def progress(size: int | None) -> Iterator[Advance]:
    """Show a bar with rate and remaining time; the latter only if ``size``, in bytes, is known."""
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
