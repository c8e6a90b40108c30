"""Put figures into performance.md and the README: `python docs/make_performance.py`.

What stands between the markers `<!-- figures: NAME -->` and `<!-- end -->` is made from
bench/results/results.json, so no figure in the documents is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Row
from bench.report import number, read

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "bench" / "results"
PAGES = (HERE / "performance.md", HERE.parent / "README.md")
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return a page with every block made anew."""
    makers = {
        "goals": _goals,
        "three": _three,
        "field": _field,
        "machine": _machine,
        "floors": _floors,
    }
    return BLOCK.sub(lambda found: found[1] + makers[found[2]](rows) + found[3], text)


def _ours(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.subject == "pgque"]


def _goals(rows: Sequence[Row]) -> str:
    lines = ["| # | | measured | beside | goal | |", "|--:|---|---|---|---|---|"]
    for row in _ours(rows):
        if not row.goal:
            continue
        beside = ""
        if row.ratio is not None:
            beside = f"{number(row.ratio)} times {row.reference}"
        goal = row.goal.replace("<=", "≤").replace(">=", "≥")
        met = {True: "met", False: "**not met**", None: ""}[row.met]
        measured = f"{number(row.value)} {row.unit}"
        cells = (str(row.workload), row.name, measured, beside, goal, met)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _floors(rows: Sequence[Row]) -> str:
    lines = ["| # | | measured | the floor | |", "|--:|---|---|---|---|"]
    for row in _ours(rows):
        if row.goal or row.ratio is None or row.workload not in (4, 6):
            continue
        what = row.name.partition(", beside")[0]
        measured, floor = (
            f"{number(row.value)} {row.unit}",
            f"{number(row.reference_value)} {row.unit}",
        )
        cells = (
            str(row.workload),
            what,
            measured,
            f"{floor}: {row.reference}",
            f"{number(row.ratio)} times",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _field(rows: Sequence[Row]) -> str:
    lines = ["| | who | measured |", "|---|---|---|"]
    for row in rows:
        if row.workload in (2, 4, 6, 9) and row.subject != "pgque":
            what = "not possible" if row.value is None else f"{number(row.value)} {row.unit}"
            lines.append(f"| {row.name} | {row.subject} | {what} |")
    return "\n".join(lines) + "\n"


def _machine(rows: Sequence[Row]) -> str:
    found = next(row.environment for row in rows if row.environment)
    return (
        f"Measured on {found['date']} on {found['cores']} cores ({found['machine']}) of a shared "
        f"machine, client and server together: PostgreSQL {found['postgresql']} with fsync and "
        f"synchronous_commit on, Python {found['python']}.\n"
    )


def _three(rows: Sequence[Row]) -> str:
    def one(workload: int, start: str) -> Row:
        return next(
            row for row in _ours(rows) if row.workload == workload and row.name.startswith(start)
        )

    send, drain, flat = one(1, "send, 1"), one(5, ""), one(9, "")
    return (
        f"- A `send` takes {number(send.ratio)} times as long as a plain `INSERT` of its row.\n"
        f"- A `Consumer` drains {number(drain.value)} messages a second.\n"
        f"- Under a pinned xmin horizon {flat.name} take {number(flat.ratio)} times as long as "
        f"{flat.reference}.\n"
    )


def main() -> None:
    """Write the pages."""
    rows = read(RESULTS)
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
