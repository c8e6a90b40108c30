"""The results of a run: a table for people, JSON for the documents, and the verdict."""

from __future__ import annotations

import platform
from collections import Counter
from datetime import datetime, timezone
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.chaos.copies import Copy
from bench.chaos.deeds import DEEDS
from bench.chaos.faults import FAULTS
from bench.chaos.history import VIOLATIONS, counts
from bench.chaos.rates import SOON, too_late
from bench.chaos.run import Result

SHOWN = 5


def failures(result: Result) -> list[str]:
    """Return one line for each failure; an empty list means success."""
    found = [
        f"{VIOLATIONS[kind]}: {text}"
        for kind, texts in result.findings.by_kind.items()
        for text in texts[:SHOWN]
    ]
    found += [f"a process crashed: {text}" for text in result.crashed]
    found += [
        f"{late.consumer}: the rate did not recover within {SOON:g} s of {late.fault} "
        f"({late.seconds if late.seconds is None else round(late.seconds, 1)} s, "
        f"{late.after:.0f}/s after {late.before:.0f}/s)"
        for late in too_late(result.recoveries)
    ]
    if result.left:
        found.append(f"{result.left} deliveries were missing at the end")
    never = [name for name in result.kinds if not _made(result)[name]]
    if never:
        found.append(f"never made: {', '.join(never)}")
    return found


def as_json(result: Result, seed: int) -> dict[str, Any]:
    """Return all figures of a run."""
    made = _made(result)
    events = counts(result.history.transactions)
    seconds = [r.seconds for r in result.recoveries if r.seconds is not None]
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "postgresql": result.server,
        "python": platform.python_version(),
        "seed": seed,
        "seconds": round(result.seconds),
        "events": {name: events[name] for name in ("sent", "failed", "unknown", "poison")},
        "unknown_delivered": _unknown_delivered(result),
        "delivered": dict(Counter(effect.consumer for effect in result.history.effects)),
        "handler_calls": len(result.history.attempts),
        "dead_letters": dict(Counter(letter.consumer for letter in result.history.dead)),
        "faults": {
            name: {"what": fault.what, "times": made[name]}
            for name, fault in FAULTS.items()
            if made[name]
        },
        "deeds": {
            name: {"what": deed.what, "times": result.deeds[name]} for name, deed in DEEDS.items()
        },
        "killed_by_handlers": result.killed,
        "clock_steps": result.clock_steps,
        "copies": _copies(result.copies),
        "not_made": [name for name in FAULTS if not made[name]],
        "said": dict(result.said.most_common()),
        "started_again_at_first_attempt": result.refused,
        "violations": {kind: len(texts) for kind, texts in result.findings.by_kind.items()},
        "crashed": len(result.crashed),
        "left": result.left,
        "rate_before": round(_mean([r.before for r in result.recoveries]), 1),
        "rate_after": round(_mean([r.after for r in result.recoveries]), 1),
        "rounds": len(result.calms) - 1,
        "seconds_to_recover": {
            "median": round(sorted(seconds)[len(seconds) // 2], 1) if seconds else None,
            "longest": round(max(seconds), 1) if seconds else None,
            "never": len(result.recoveries) - len(seconds),
            "longest_after": _longest_after(result),
        },
    }


def show(result: Result, console: Console) -> None:
    """Print the tables."""
    figures = as_json(result, 0)
    faults = Table("fault", "times", title="Faults")
    for name, fault in figures["faults"].items():
        faults.add_row(f"{name}: {fault['what']}", str(fault["times"]))
    console.print(faults)
    table = Table("", "", title=f"PostgreSQL {result.server}, {result.seconds:.0f} s")
    for name, value in figures["events"].items():
        table.add_row(f"events: {name}", f"{value:,}")
    table.add_row("events: unknown and delivered", str(figures["unknown_delivered"]))
    for consumer, count in sorted(figures["delivered"].items()):
        table.add_row(f"handled and committed by {consumer}", f"{count:,}")
    for name, count in figures["said"].items():
        table.add_row(f"logged: {name}", f"{count:,}")
    for deed in figures["deeds"].values():
        table.add_row(f"a handler {deed['what']}", str(deed["times"]))
    for name in ("killed_by_handlers", "clock_steps"):
        table.add_row(name.replace("_", " "), str(figures[name]))
    for name, count in figures["copies"].items():
        table.add_row(f"dumps: {name.replace('_', ' ')}", f"{count:,}")
    recovery = figures["seconds_to_recover"]
    table.add_row(
        "seconds until the rate recovered", f"{recovery['median']}, longest {recovery['longest']}"
    )
    for kind, count in figures["violations"].items():
        table.add_row(VIOLATIONS[kind], str(count))
    table.add_row("processes that crashed", str(figures["crashed"]))
    console.print(table)


def _made(result: Result) -> Counter[str]:
    return Counter(happening.name for happening in result.happenings)


def _unknown_delivered(result: Result) -> int:
    keys = {effect.key for effect in result.history.effects}
    return sum(
        key in keys
        for transaction in result.history.transactions
        if transaction.outcome == "unknown"
        for key in transaction.keys
    )


def _copies(copies: list[Copy]) -> dict[str, int]:
    """Count restored dumps, those whose log or ledger rotated, and losses the doctor reported."""
    return {
        "restored": len(copies),
        "rotated": sum(copy.rotated for copy in copies),
        "delivered": sum(copy.got.total() for copy in copies),
        "lost_and_said": sum(len(copy.lost()) for copy in copies if copy.said),
        "again_and_said": sum(len(copy.again()) for copy in copies if copy.said),
    }


def _longest_after(result: Result) -> dict[str, float]:
    """Return for each fault that ended a round the longest recovery of a consumer's rate."""
    found: dict[str, float] = {}
    for recovery in result.recoveries:
        if recovery.seconds is not None:
            found[recovery.fault] = max(found.get(recovery.fault, 0.0), round(recovery.seconds, 1))
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
