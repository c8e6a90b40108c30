"""Fill in the figures of the documents: `python docs/make_performance.py`.

The text between `<!-- figures: NAME -->` and `<!-- end -->` is made from
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
PAGES = (
    HERE / "performance.md",
    HERE / "comparison.md",
    HERE / "operations.md",
    HERE.parent / "README.md",
)
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return a page with fresh blocks."""
    makers = {
        "goals": _goals,
        "three": _three,
        "field": _field,
        "machine": _machine,
        "floors": _floors,
        "beside": _beside,
        "sizes": _sizes,
    }
    return BLOCK.sub(lambda found: found[1] + makers[found[2]](rows) + found[3], text)


def _ours(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.subject == "pgque"]


def _goals(rows: Sequence[Row]) -> str:
    lines = [
        "| # | Workload | Measured | Compared | Goal | Result |",
        "|--:|---|---|---|---|---|",
    ]
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
    lines = ["| # | Workload | Measured | Floor | Ratio |", "|--:|---|---|---|---|"]
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
    lines = ["| Workload | Queue | Measured |", "|---|---|---|"]
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


MEASURED = {
    "sent in bulk": (2, ("send_batch of 1,000 texts", "bulk enqueue")),
    "handled": (5, ("Consumer with an empty handler, windows", "3,000 jobs")),
    "send to handler, 1 a second": (6, ("send to handler, 1 a second",)),
    "100 a second": (6, ("send to handler, 100 a second",)),
    "an old transaction open": (9, ("300 a second",)),
}
"""Columns of the table in comparison.md: the workload, and how its rows' names begin."""


def _beside(rows: Sequence[Row]) -> str:
    subjects = ["pgque", *dict.fromkeys(row.subject for row in rows if row.subject != "pgque")]
    lines = ["| | " + " | ".join(MEASURED) + " |", "|---|" + "--:|" * len(MEASURED)]
    for subject in subjects:
        cells = [subject]
        for workload, beginnings in MEASURED.values():
            found = [
                row for row in rows
                if (row.workload, row.subject) == (workload, subject)
                and row.name.startswith(beginnings)
            ]  # fmt: skip
            known = found[0] if found and found[0].value is not None else None
            cells.append(f"{number(known.value)} {known.unit}" if known else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


SIZES = {
    "disk for an event with 100 bytes of payload": (12, "the log on disk, 10 consumers"),
    "WAL for it, from send to rotation": (16, "WAL, whole life"),
    "CPU while nothing happens, server and clients": (8, "idle for 60 s: CPU"),
    "a check of the ticker, 100 of 1,000 queues busy": (15, "a round of the ticker, 100"),
    "growth of a consumer's process with a backlog of 5,000,000": (17, "growth of the process"),
}
"""Rows of the table in operations.md: the workload, and how its row's name begins."""


def _sizes(rows: Sequence[Row]) -> str:
    lines = ["| What | Measured |", "|---|--:|"]
    for words, (workload, beginning) in SIZES.items():
        for row in _ours(rows):
            if row.workload == workload and row.name.startswith(beginning):
                lines.append(f"| {words} | {number(row.value)} {row.unit} |")
    return "\n".join(lines) + "\n"


def _three(rows: Sequence[Row]) -> str:
    def one(workload: int, start: str) -> Row:
        return next(
            row for row in _ours(rows) if row.workload == workload and row.name.startswith(start)
        )

    send, drain, flat = one(1, "send, 1"), one(5, ""), one(9, "")
    return (
        f"- A `send` takes {number(send.ratio)} times as long as a plain `INSERT` of its row.\n"
        f"- A `Consumer` drains {number(drain.value)} messages per second.\n"
        f"- While a transaction pins the xmin horizon, {flat.name} take {number(flat.ratio)} times "
        f"as long as {flat.reference}.\n"
    )


def main() -> None:
    """Write the pages."""
    rows = read(RESULTS)
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
