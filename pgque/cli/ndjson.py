"""Lines of JSON, read one after the other."""

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
    """How many bytes the source has up to the end of the line."""


def read(source: Iterable[bytes], skip: int = 0) -> Iterator[Line]:
    """Yield the lines behind the first ``skip``; `CommandError` for one that is no JSON."""
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
            raise CommandError(f"line {number} is nested too deeply, and was not sent") from error
        except ValueError as error:
            raise CommandError(f"line {number} is no JSON, and was not sent: {error}") from error
        yield Line(text, number, end)
