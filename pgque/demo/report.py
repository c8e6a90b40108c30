"""The report at the end of the demo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pgque.demo.check import Count, Verdict
from pgque.demo.tables import MAX_RETRIES

EXAMPLES = 5
"""The number of flights or differences to list; the rest is only counted."""


def report(verdict: Verdict, calls: Mapping[str, int], retries: int) -> Iterator[str]:
    """Yield the lines of the report."""
    yield ""
    yield f"{'':14}{'flights':>8}{'lost':>7}{'twice':>7}"
    remarks = _remarks(verdict, calls, retries)
    for count in verdict.counts:
        yield _line(count, remarks[count.name])
    for count in verdict.counts:
        yield from _name_flights(count)
    yield from _first(verdict.differences)
    yield ""
    lost = sum(len(count.lost) for count in verdict.counts)
    twice = sum(len(count.twice) for count in verdict.counts)
    end = "the database and the file agree" if verdict.right else "the database and the file DIFFER"
    yield f"{lost} lost, {twice} counted twice: {end}"


def _remarks(verdict: Verdict, calls: Mapping[str, int], retries: int) -> dict[str, str]:
    def about(what: str, text: str) -> str:
        return "" if any(d.startswith(what) for d in verdict.differences) else text

    return {
        "sent": ", ".join(f"{number:,} by {call}" for call, number in sorted(calls.items())),
        "delays": about("delays", "mean delay per carrier matches the file"),
        "gates": about("flights at", "totals per airport and day match the file"),
        "audit": "all departed flights",
        "dead letters": f"all cancelled flights, {MAX_RETRIES} retries each ({retries:,})",
    }


def _line(count: Count, remark: str) -> str:
    figures = f"{count.flights:>8,}{len(count.lost):>7,}{len(count.twice):>7,}"
    return f"{count.name:14}{figures}   {remark if count.right else ''}".rstrip()


def _name_flights(count: Count) -> Iterator[str]:
    for word, flights in (
        ("lost", count.lost),
        ("counted twice", count.twice),
        ("not expected", count.unknown),
    ):
        yield from _first([f"{count.name}: {word}: {flight}" for flight in flights])


def _first(lines: list[str]) -> Iterator[str]:
    yield from lines[:EXAMPLES]
    if len(lines) > EXAMPLES:
        yield f"... and {len(lines) - EXAMPLES:,} more"
