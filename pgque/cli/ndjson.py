"""Reads newline-delimited JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pgque.cli.options import CommandError


class Line(NamedTuple):
    """A line that is not empty."""

    text: str
    number: int
    end: int
    """Offset of the end of the line in the source, in bytes."""


def read(source: Iterable[bytes], skip: int = 0) -> Iterator[Line]:
    """Yield the lines after the first ``skip``. Raise `CommandError` for one that is not JSON."""
    end = 0
    for number, line in enumerate(source, 1):
        end += len(line)
        if number <= skip:
            continue
        try:
            text = line.decode().strip()
            if not text:
                continue
            json.loads(text, parse_int=str)  # of any length
        except RecursionError as error:
            raise CommandError(f"line {number} is nested too deeply and was not sent") from error
        except ValueError as error:
            raise CommandError(f"line {number} is not JSON and was not sent: {error}") from error
        yield Line(text, number, end)
