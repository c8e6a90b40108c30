"""`pgque send`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from pgque.cli.ndjson import read
from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_done
from pgque.cli.progress import progress
from pgque.cli.queue import Queue
from pgque.cli.resume import Record
from pgque.client import PgqueClient, connect

Payloads = Annotated[
    list[str] | None,
    typer.Argument(metavar="PAYLOAD", help="The payloads, as text.", show_default=False),
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
        help="A file of NDJSON, one payload per line; - is standard input.",
        show_default=False,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="RECORD",
        help="Record progress in this file, and continue from there when run again.",
        show_default=False,
    ),
]
Skip = Annotated[int, typer.Option("--skip", min=0, help="Skip this many lines of the file.")]
Batch = Annotated[int, typer.Option("--batch", min=1, max=1_000_000, help="Lines per transaction.")]


def command(
    dsn: Dsn,
    queue: Queue,
    payloads: Payloads = None,
    type: Type = "default",  # noqa: A002
    key: Key = None,
    file: File = None,
    resume: Resume = None,
    skip: Skip = 0,
    batch: Batch = 1000,
    as_json: AsJson = False,
) -> None:
    """Send events: the arguments in one transaction, or the lines of a file in batches.

    A file is checked completely before its first line is sent. After an error, the command prints
    how many lines were sent and the --skip that continues from there. With --resume, run the same
    command again to continue: no line is sent twice or left out, even if the command was killed
    during a commit.
    """
    if bool(payloads) == (file is not None):
        raise typer.BadParameter("give either payloads or --file")
    if resume is not None and (file is None or skip):
        raise typer.BadParameter("--resume needs --file and excludes --skip")
    with connect(dsn) as client:
        if file is None:
            for payload in payloads or ():
                client.send(queue, payload, type=type, key=key)
            client.conn.commit()
            sent, text = len(payloads or ()), ""
        else:
            record = None if resume is None else Record(resume, client, queue)
            before = skip if record is None else record.lines()
            sent = _send_file(client, queue, type, key, file, before, batch, record)
            text = f"; the first {before:,} lines were sent earlier" if record and before else ""
    print_done(as_json, {"queue": queue, "sent": sent}, f"{sent:,} sent to {queue}{text}.")


def _send_file(
    client: PgqueClient,
    queue: str,
    type_: str,
    key: str | None,
    file: Path,
    skip: int,
    batch: int,
    record: Record | None,
) -> int:
    size = None
    if str(file) != "-":
        size = file.stat().st_size
        with file.open("rb") as lines:
            for _ in read(lines, skip):
                pass
    done, sent = skip, 0
    source: Any = nullcontext(sys.stdin.buffer) if size is None else file.open("rb")
    with source as lines, progress(size) as advance:
        rest = read(lines, skip)
        try:
            while part := list(islice(rest, batch)):
                texts = [line.text for line in part]
                if key is None:
                    client.send_batch(queue, type_, texts)
                else:
                    for text in texts:
                        client.send(queue, text, type=type_, key=key)
                if record is not None:
                    record.before_commit(part[-1].number)
                client.conn.commit()
                sent += len(part)
                done = part[-1].number
                advance(part[-1].end, sent)
        except BaseException:
            how = f"--skip {done}" if record is None else "the same command"
            typer.echo(f"pgque: {sent:,} were sent; continue with {how}", err=True)
            raise
    if record is not None:
        record.finish()
    return sent
