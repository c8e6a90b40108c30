"""The check for CI: a change must keep these ratios within bounds wide enough for noise.

In runs this short, a shared machine can be off by half. The bounds allow for that and are not
goals: a workload that fails here three times in a row has become much slower.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.measure import Row, meets

WORKLOADS = (1, 2, 4, 9)

BOUNDS: dict[int, str] = {
    1: "<= 2",
    2: ">= 0.4",
    4: ">= 0.12",
    9: "<= 1.8",
}
"""By workload: the bound for the ratio of each of its rows that has a goal."""


def failures(rows: Sequence[Row]) -> list[str]:
    """Return a line for each ratio beyond its bound and for each workload without a ratio."""
    lines = []
    for workload, limit in BOUNDS.items():
        checked = [
            row
            for row in rows
            if row.workload == workload and row.subject == "pgque" and row.ratio is not None
        ]
        if not checked:
            lines.append(f"workload {workload} has no ratio")
        for row in checked:
            assert row.ratio is not None
            if not meets(limit, row.ratio):
                lines.append(f"{row.name}: {row.ratio:.2f} × {row.reference}, the bound is {limit}")
    return lines
