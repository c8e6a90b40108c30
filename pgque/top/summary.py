"""The lines above a list: the ticker, totals, and rates over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from pgque.top.history import ConsumerRow, History, QueueRow, Trend
from pgque.top.spark import spark
from pgque.watching.live import Sample
from pgque.watching.readable import compact, duration, printable
from pgque.watching.states import Level

TALL: Final = 40
"""Height of the screen, in lines, from which trends use several lines."""

Rate = tuple[str, float | None, Trend]


def head(where: str, sample: Sample, interval: float, paused: bool) -> Text:
    """Return the first line of every screen."""
    line = Text.assemble(("pgque top", "bold"), "   ")
    if sample.ticking:
        line.append("Ticker: running", "green")
    else:
        line.append("!! Ticker: no leader, run pgque ticker", "bold red")
    line.append("   ")
    if paused:
        line.append("PAUSED: space resumes", "reverse")
    else:
        line.append(f"every {duration(interval)}", "dim")
    return line.append(f"   {printable(where)}")


def of_all(history: History, size: tuple[int, int]) -> Text:
    """Return the totals of all queues."""
    totals = history.totals
    bad = sum(row.state.level >= Level.WARNING for row in history.queues.values())
    line = _facts(
        ("queues", f"{len(history.queues):,}"),
        ("consumers", f"{len(history.consumers):,}"),
        ("retries", compact(totals.retries)),
        ("dead letters", compact(totals.dead)),
    )
    line.append(f" ! {bad:,} with problems" if bad else " all ok", "yellow" if bad else "green")
    rates = [("in", totals.sent, totals.sent_trend), ("out", totals.done, totals.done_trend)]
    return Text("\n").join([line, *_charts(rates, size)])


def of_queue(row: QueueRow, size: tuple[int, int]) -> Text:
    """Return the figures of one queue."""
    now = row.now
    line = Text.assemble((printable(now.queue), "bold"), "  ", (row.state.text, row.state.style))
    facts = _facts(
        ("sent", compact(now.sent)),
        ("unticked", compact(now.unticked)),
        ("ticked", duration(now.tick_age)),
        ("rotated", duration(now.rotation_age)),
        ("retries", compact(now.retries)),
        ("dead", compact(now.dead)),
    )
    return Text("\n").join([line, facts, *_charts([("in", now.rate, row.trend)], size)])


def of_consumer(row: ConsumerRow, size: tuple[int, int]) -> Text:
    """Return the figures of one consumer."""
    now = row.now
    line = Text.assemble(
        (printable(now.consumer), "bold"),
        f" of {printable(now.queue)}  ",
        (row.state.text, row.state.style),
    )
    facts = _facts(
        ("pending", compact(now.pending)),
        ("waiting", duration(now.lag)),
        ("seen", f"{duration(now.last_seen)} ago"),
        ("holds", "a batch" if now.holds_batch else "no batch"),
    )
    if now.member:
        facts.append("   group member: see the group for its rate", "dim")
        return Text("\n").join([line, facts])
    return Text("\n").join([line, facts, *_charts([("done", now.rate, row.trend)], size)])


def _facts(*facts: tuple[str, str]) -> Text:
    line = Text(no_wrap=True)
    for name, value in facts:
        line.append(f"{name} ", "dim")
        line.append(f"{value}  ")
    return line


def _charts(rates: Sequence[Rate], size: tuple[int, int]) -> list[Text]:
    """Return the rates with their trends side by side."""
    width, height = size
    lines = 4 if height >= TALL else 1
    labels = [
        f"{name} {'-' if rate is None else compact(rate)}/s".ljust(12) for name, rate, _ in rates
    ]
    room = max(4, width // len(rates) - 12 - 2)
    bars = [spark(trend, room, lines) for _, _, trend in rates]
    found = []
    for n in range(lines):
        line = Text(no_wrap=True)
        for label, drawn in zip(labels, bars, strict=True):
            line.append(label if n == lines - 1 else " " * len(label))
            line.append(drawn[n], "cyan")
            line.append("  ")
        line.rstrip()
        found.append(line)
    return found
