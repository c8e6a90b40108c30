"""Fill in the figures about reliability: `python docs/make_reliability.py`.

The text between `<!-- figures: NAME -->` and `<!-- end -->` is made from the results of runs in
docs/reliability, so no figure there is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.chaos.deeds import DEEDS
from bench.chaos.faults import FAULTS
from bench.chaos.history import VIOLATIONS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "reliability"
PAGES = (RESULTS / "chaos.md", HERE / "reliability.md")
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


Figures = Mapping[str, Any]

NO_RUN = "No recorded run has this figure yet.\n"
"""Replaces figures that the newest run does not have."""


def filled(text: str, runs: Mapping[str, Figures]) -> str:
    """Return a page with fresh blocks."""

    def make(found: re.Match[str]) -> str:
        source, maker = MAKERS[found[2]]
        return found[1] + maker(runs[source]) + found[3]

    return BLOCK.sub(make, text)


def read() -> Mapping[str, Figures]:
    """Return the figures of all runs by file name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def _model(runs: Figures) -> str:
    lines = [
        "| PostgreSQL | Examples | Steps | Broken promises | Command |",
        "|---|--:|--:|--:|---|",
    ]
    for run in runs.values():
        if "machine" in run:
            m = run["machine"]
            lines.append(
                f"| {m['server']} | {m['examples']:,} | {m['steps']:,} | {m['failures']} "
                f"| `{_command(m['command'])}` |"
            )
    return "\n".join(lines) + "\n"


UPSETS = {
    "clock": "the clock was set back or ahead",
    "sequences": "all sequences were reset",
    "row security": "row security was switched on for a reader",
    "restore": "the database started a new life, as after a restore",
    "isolated": "a REPEATABLE READ consumer worked across a rotation of the ledger",
}
"""Names of the steps that operators take, by the names that the model counts."""


def _upsets(runs: Figures) -> str:
    lines = ["| PostgreSQL | Step | Times |", "|---|---|--:|"]
    for run in runs.values():
        machine = run.get("machine", {})
        for kind, count in machine.get("upsets", {}).items():
            lines.append(f"| {machine['server']} | {UPSETS[kind]} | {count:,} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else NO_RUN


def _variants(runs: Figures) -> str:
    lines = ["| Broken engine | Found after examples | Symptom |", "|---|--:|---|"]
    for run in runs.values():
        for name, found in run.get("variants", {}).items():
            lines.append(f"| {name} | {found['examples']:,} | {found['found'].replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def _counted(runs: Figures) -> str:
    lines = ["| Test | Counts | Command |", "|---|---|---|"]
    for name, run in runs.items():
        figures = dict(run["figures"])
        outcomes = figures.pop("outcomes", {})
        figures.pop("seconds", None)
        counts = [f"{count:,} {what}" for what, count in figures.items()]
        named = sum(count for how, count in outcomes.items() if "went" not in how)
        if outcomes and "success" in outcomes:
            named -= outcomes["success"]
            counts.append(f"{outcomes['success']:,} succeeded, {named:,} ended in a named error")
        elif outcomes:
            through = outcomes["went through"]
            counts.append(f"{through:,} did not conflict, {named:,} waited or were refused")
        lines.append(f"| {name} | {', '.join(counts)} | `{_command(run['command'])}` |")
    return "\n".join(lines) + "\n"


def _security(runs: Figures) -> str:
    lines = ["| Check | Counts |", "|---|---|"]
    for where, run in runs.items():
        for name, figures in run.items():
            if isinstance(figures, dict):
                counts = ", ".join(
                    f"{what.replace('_', ' ')} {f'{n:,}' if isinstance(n, int) else n}"
                    for what, n in figures.items()
                )
                lines.append(f"| {name} ({where}) | {counts} |")
    return "\n".join(lines) + "\n"


def _pooler(run: Figures) -> str:
    tests = run["tests"]
    return (
        f"PgBouncer {run['pgbouncer']}, {run['pool_mode']} mode, PostgreSQL {run['postgresql']}: "
        f"{tests['passed']} tests of the client passed, {tests['failed']} failed, "
        f"{tests['skipped']} were skipped.\n"
    )


def _command(text: str) -> str:
    return text.replace(".venv/bin/", "")


def _run(chaos: Figures) -> str:
    return (
        f"Run on {chaos['date']} with PostgreSQL {chaos['postgresql']} and Python "
        f"{chaos['python']}, {chaos['seconds'] / 60:.0f} minutes, "
        f"{sum(fault['times'] for fault in chaos['faults'].values()):,} faults in "
        f"{chaos['rounds']} rounds, seed {chaos['seed']}.\n"
    )


def _faults(chaos: Figures) -> str:
    back = chaos["seconds_to_recover"]["longest_after"]
    lines = ["| Fault | Times | Seconds until the rate recovered |", "|---|--:|--:|"]
    for name, fault in chaos["faults"].items():
        seconds = f"{back[name]:.1f}" if name in back else ""
        lines.append(f"| {fault['what']} | {fault['times']} | {seconds} |")
    lines += [f"| {FAULTS[name].what} | not tested | |" for name in chaos["not_made"]]
    return "\n".join(lines) + "\n"


def _violations(chaos: Figures) -> str:
    lines = ["| Violation | Found |", "|---|--:|"]
    found = chaos["violations"]
    lines += [f"| {what} | {found[kind]:,} |" for kind, what in VIOLATIONS.items() if kind in found]
    lines.append(f"| a consumer or ticker ended without a reason | {chaos['crashed']:,} |")
    return "\n".join(lines) + "\n"


def _events(chaos: Figures) -> str:
    events, delivered = chaos["events"], chaos["delivered"]
    dead = chaos["dead_letters"]
    return (
        f"{events['sent']:,} events were sent, and {events['failed']:,} failed or were rolled "
        f"back. For {events['unknown']:,} events the connection or the process died during the "
        f"commit; {chaos['unknown_delivered']:,} of these were delivered, to all consumers. The "
        f"{len(delivered)} consumers handled and committed "
        f"{', '.join(f'{count:,}' for count in delivered.values())} events and had "
        f"{', '.join(f'{n:,}' for n in dead.values())} dead letters, in "
        f"{chaos['handler_calls']:,} handler calls.\n"
    )


def _deeds(chaos: Figures) -> str:
    if "deeds" not in chaos:
        return NO_RUN
    lines = ["| A handler that | Times sent | Expected end |", "|---|--:|---|"]
    for name, deed in chaos["deeds"].items():
        end = "a dead letter, without an effect" if DEEDS[name].dead else "handled, once"
        lines.append(f"| {deed['what']} | {deed['times']:,} | {end} |")
    killed = f"Handlers killed their own process {chaos['killed_by_handlers']:,} times.\n"
    return "\n".join(lines) + "\n\n" + killed


def _clock(chaos: Figures) -> str:
    if "clock_steps" not in chaos:
        return NO_RUN
    return f"The server's clock was set {chaos['clock_steps']:,} times.\n"


def _copies(chaos: Figures) -> str:
    if "copies" not in chaos:
        return NO_RUN
    copies = chaos["copies"]
    return (
        f"{copies['restored']:,} dumps were restored and drained. During {copies['rotated']:,} of "
        f"them the log or the ledger was rotated. {copies['delivered']:,} events were delivered "
        f"in the copies; {copies['lost_and_said']:,} were missing and "
        f"{copies['again_and_said']:,} were redelivered, and `pgque doctor` reported all of them.\n"
    )


def _said(chaos: Figures) -> str:
    lines = ["| Logged by clients | Times |", "|---|--:|"]
    lines += [f"| {what} | {times:,} |" for what, times in chaos["said"].items()]
    return "\n".join(lines) + "\n"


MAKERS: dict[str, tuple[str, Callable[[Figures], str]]] = {
    "run": ("chaos", _run),
    "faults": ("chaos", _faults),
    "violations": ("chaos", _violations),
    "events": ("chaos", _events),
    "said": ("chaos", _said),
    "deeds": ("chaos", _deeds),
    "clock": ("chaos", _clock),
    "copies": ("chaos", _copies),
    "upsets": ("model", _upsets),
    "model": ("model", _model),
    "variants": ("model", _variants),
    "races": ("races", _counted),
    "fuzz": ("fuzz", _counted),
    "upgrades": ("upgrades", _counted),
    "security": ("security", _security),
    "pooler": ("pooler", _pooler),
}


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    main()
