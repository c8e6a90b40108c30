"""`pgque send`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from pgque.cli.options import CommandError, Dsn
from pgque.cli.queue import Queue
from pgque.client import PgqueClient, connect

Payloads = Annotated[
    list[str] | None, typer.Argument(metavar="[PAYLOAD]...", help="Texts.", show_default=False)
]
Type = Annotated[str, typer.Option("--type", help="The type of each event.")]
Key = Annotated[
    str | None, typer.Option("--key", help="The key of each event.", show_default=False)
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="NDJSON: each line a payload; - is standard input.",
        show_default=False,
    ),
]
Skip = Annotated[int, typer.Option("--skip", min=0, help="Begin behind so many lines of the file.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Lines in one transaction.")]


def command(
    dsn: Dsn,
    queue: Queue,
    payloads: Payloads = None,
    type: Type = "default",  # noqa: A002
    key: Key = None,
    file: File = None,
    skip: Skip = 0,
    batch: Batch = 1000,
) -> None:
    """Send events: the arguments in one transaction, or the lines of a file in batches.

    A file's lines are looked at before the first is sent. What was sent before an error is said,
    with the --skip that goes on from there.
    """
    if bool(payloads) == (file is not None):
        raise typer.BadParameter("give either payloads or --file")
    with connect(dsn) as client:
        if file is None:
            for payload in payloads or ():
                client.send(queue, payload, type=type, key=key)
            client.conn.commit()
            sent = len(payloads or ())
        else:
            sent = _send_file(client, queue, type, key, file, skip, batch)
    typer.echo(f"{sent:,} sent to {queue}.")


def _send_file(
    client: PgqueClient, queue: str, type_: str, key: str | None, file: Path, skip: int, batch: int
) -> int:
    done, sent = skip, 0
    if str(file) != "-":
        with file.open("rb") as lines:
            for _ in _checked(islice(lines, skip, None), skip):
                pass
    source: Any = nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb")
    with source as lines, _Progress(lines, file) as advance:
        rest = _checked(islice(lines, skip, None), skip)
        try:
            while part := list(islice(rest, batch)):
                texts = [text for text, _, _ in part]
                if key is None:
                    client.send_batch(queue, type_, texts)
                else:
                    for text in texts:
                        client.send(queue, text, type=type_, key=key)
                client.conn.commit()
                sent += len(part)
                done = part[-1][2]
                advance(sum(size for _, size, _ in part), len(part))
        except BaseException:
            typer.echo(f"pgque: {sent:,} were sent; go on with --skip {done}", err=True)
            raise
    return sent


def _checked(lines: Iterable[bytes], skip: int) -> Iterator[tuple[str, int, int]]:
    """Return each line's text, which is JSON, its size in the file and its number."""
    for number, line in enumerate(lines, skip + 1):
        try:
            text = line.decode().strip()
            if not text:
                continue
            json.loads(text)
        except ValueError as error:
            raise CommandError(f"line {number} is no JSON, and was not sent: {error}") from error
        yield text, len(line), number


class _Progress:
    """A bar on standard error, with rate and time left, where that is a terminal."""

    def __init__(self, lines: IO[bytes], file: Path) -> None:
        self._total = file.stat().st_size if str(file) != "-" else None

    def __enter__(self) -> Any:
        if not sys.stderr.isatty():
            self._bar = None
            return lambda size, count: None
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.fields[sent]:,} sent"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        task = self._bar.add_task("", total=self._total, sent=0, rate=0.0)
        bar = self._bar

        def advance(size: int, count: int) -> None:
            row = bar.tasks[task]
            sent = row.fields["sent"] + count
            bar.update(task, advance=size, sent=sent, rate=sent / max(row.elapsed or 1e-9, 1e-9))

        return advance

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
