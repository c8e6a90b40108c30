"""Output of commands: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from pgque.watching.readable import readable

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with durations in seconds.")]
Record = Mapping[str, Any]

_WIDTH_WITHOUT_TERMINAL = 1000


def print_json(value: object) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def print_done(as_json: bool, done: Mapping[str, object], text: str) -> None:
    """Report what was done: as JSON, or in words."""
    if as_json:
        print_json(done)
    else:
        typer.echo(text)


def print_table(records: Sequence[Record], *, empty: str) -> None:
    """Print records as a table headed by their keys, or print ``empty`` if there are none."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not records:
        typer.echo(empty)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in records[0]:
        values = [record[name] for record in records]
        right = all(isinstance(value, int | float | timedelta | None) for value in values)
        table.add_column(name.replace("_", " "), justify="right" if right else "left")
    for record in records:
        table.add_row(*(Text(readable(value)) for value in record.values()))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_WITHOUT_TERMINAL)  # let the reader cut it
    console.print(table)


def print_record(record: Record) -> None:
    """Print one record, one line per key."""
    width = max(map(len, record))
    for name, value in record.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}  {readable(value)}")


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
