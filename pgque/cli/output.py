"""What commands print: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: durations are in seconds.")]
Record = Mapping[str, Any]

_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
_WIDTH_WITHOUT_TERMINAL = 1000


def print_json(value: object) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def print_done(as_json: bool, done: Mapping[str, object], text: str) -> None:
    """Say what was done: as JSON, or in words."""
    if as_json:
        print_json(done)
    else:
        typer.echo(text)


def print_table(records: Sequence[Record], *, empty: str) -> None:
    """Print records of the same keys as a table with the keys as its head; or say what is empty."""
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
        console = Console(width=_WIDTH_WITHOUT_TERMINAL)  # who reads it may cut it
    console.print(table)


def print_record(record: Record) -> None:
    """Print one record, a line for each of its keys."""
    width = max(map(len, record))
    for name, value in record.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}  {readable(value)}")


def readable(value: object) -> str:
    """Return a value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return _readable_time(value.total_seconds())
    if isinstance(value, datetime):
        return value.astimezone().isoformat(" ", "seconds")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return printable(str(value))


def _readable_time(seconds: float) -> str:
    for unit, length in _UNITS:
        if abs(seconds) >= length:
            return f"{seconds / length:,.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds * 1000:,.0f} ms"


def compact(number: float) -> str:
    """Return a number of at least 0 in five characters at most, as 1.2k or 350M."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return _short(number) + unit
        number /= 1000
    return f"{number:,.0f}T"


def compact_time(seconds: float) -> str:
    """Return a duration of at least 0 in seven characters at most, as 1.2 s or 35 min."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "0 s"
    for unit, length, end in (("s", 1, 59.5), ("min", 60, 59.5), ("h", 3600, 47.5)):
        if seconds < end * length:
            return f"{_short(seconds / length)} {unit}"
    return f"{_short(seconds / 86400)} d"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 9.95 else f"{number:.0f}"


def printable(text: str) -> str:
    """Return a text without what would move a terminal's cursor or start a new line."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _plain(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
