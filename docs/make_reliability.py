"""Put figures into the pages about reliability: `python docs/make_reliability.py`.

What stands between the markers `<!-- figures: NAME -->` and `<!-- end -->` is made from the results
of runs in docs/reliability, so no figure there is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.chaos.faults import FAULTS
from bench.chaos.history import VIOLATIONS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "reliability"
PAGES = (RESULTS / "chaos.md",)
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, chaos: Mapping[str, Any]) -> str:
    """Return a page with every block made anew."""
    return BLOCK.sub(lambda found: found[1] + MAKERS[found[2]](chaos) + found[3], text)


def read() -> Mapping[str, Any]:
    """Return the figures of the chaos run."""
    found: Mapping[str, Any] = json.loads((RESULTS / "chaos.json").read_text())
    return found


def _run(chaos: Mapping[str, Any]) -> str:
    return (
        f"Run on {chaos['date']} with PostgreSQL {chaos['postgresql']} and Python "
        f"{chaos['python']}, {chaos['seconds'] / 60:.0f} minutes, "
        f"{sum(fault['times'] for fault in chaos['faults'].values()):,} faults in "
        f"{chaos['rounds']} rounds, seed {chaos['seed']}.\n"
    )


def _faults(chaos: Mapping[str, Any]) -> str:
    back = chaos["seconds_to_recover"]["longest_after"]
    lines = ["| fault | times | seconds until the rate was back |", "|---|--:|--:|"]
    for name, fault in chaos["faults"].items():
        seconds = f"{back[name]:.1f}" if name in back else ""
        lines.append(f"| {fault['what']} | {fault['times']} | {seconds} |")
    lines += [f"| {FAULTS[name].what} | not tried | |" for name in chaos["not_made"]]
    return "\n".join(lines) + "\n"


def _violations(chaos: Mapping[str, Any]) -> str:
    lines = ["| looked for | found |", "|---|--:|"]
    lines += [f"| {what} | {chaos['violations'][kind]:,} |" for kind, what in VIOLATIONS.items()]
    lines.append(f"| a consumer or ticker ended for no reason | {chaos['crashed']:,} |")
    return "\n".join(lines) + "\n"


def _events(chaos: Mapping[str, Any]) -> str:
    events, delivered = chaos["events"], chaos["delivered"]
    dead = chaos["dead_letters"]
    return (
        f"{events['sent']:,} events were sent, {events['failed']:,} failed or were rolled back; "
        f"of {events['unknown']:,} the connection or the process died in the commit: "
        f"{chaos['unknown_delivered']:,} of these were delivered, to all consumers. Handled and "
        f"committed were {', '.join(f'{count:,}' for count in delivered.values())} events by the "
        f"{len(delivered)} consumers, beside {', '.join(f'{n:,}' for n in dead.values())} dead "
        f"letters, in {chaos['handler_calls']:,} calls of handlers.\n"
    )


def _said(chaos: Mapping[str, Any]) -> str:
    lines = ["| logged by clients | times |", "|---|--:|"]
    lines += [f"| {what} | {times:,} |" for what, times in chaos["said"].items()]
    return "\n".join(lines) + "\n"


MAKERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "run": _run,
    "faults": _faults,
    "violations": _violations,
    "events": _events,
    "said": _said,
}


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    main()
