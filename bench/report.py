"""Results: rows as JSON, and the Markdown table made from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bench.measure import Row
from bench.workloads import TITLES

JSON_NAME, MARKDOWN_NAME = "results.json", "results.md"


def read(folder: Path) -> list[Row]:
    """Return the rows of earlier runs; an empty list without one."""
    path = folder / JSON_NAME
    if not path.exists():
        return []
    known = {field.name for field in fields(Row)}
    found = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [Row(**{name: value for name, value in row.items() if name in known}) for row in found]


def write(folder: Path, rows: Iterable[Row]) -> list[Row]:
    """Replace the rows of the same workloads and subjects; write both files.

    Returns all rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = list(rows)
    replaced = {(row.workload, row.subject) for row in new}
    kept = [row for row in read(folder) if (row.workload, row.subject) not in replaced]
    merged = sorted(kept + new, key=lambda row: (row.workload, row.subject != "pgque"))
    text = json.dumps({"rows": [_plain(row) for row in merged]}, indent=1, ensure_ascii=False)
    (folder / JSON_NAME).write_text(text + "\n", encoding="utf-8")
    (folder / MARKDOWN_NAME).write_text(markdown(merged), encoding="utf-8")
    return merged


def _plain(row: Row) -> dict[str, Any]:
    return {name: _rounded(item) for name, item in asdict(row).items()}


def _rounded(item: Any) -> Any:
    """Keep six significant digits, more than any of these figures has."""
    if isinstance(item, float):
        return float(f"{item:.6g}")
    if isinstance(item, dict):
        return {name: _rounded(part) for name, part in item.items()}
    if isinstance(item, (list, tuple)):
        return [_rounded(part) for part in item]
    return item


def markdown(rows: Sequence[Row]) -> str:
    """Return the page: the environments and one table."""
    notes = _environments(rows)
    lines = [
        "# Results",
        "",
        "Made by `python -m bench` from `results.json`. Median and range of the rounds; the ratio",
        "is to the reference, which took turns with it in the same run. Every workload checked at",
        "its end that each event arrived.",
        "",
        *[f"- {mark} {text}" if len(notes) > 1 else f"- {text}" for text, mark in notes.items()],
        f"- packages: {_packages(rows)}",
        "",
        "| # | workload | subject | median | range | unit | reference | its median | ratio "
        "| goal | met |",
        "|--:|---|---|--:|---|---|---|--:|--:|---|---|",
    ]
    for row in rows:
        mark = f" {notes[_environment(row)]}" if len(notes) > 1 else ""
        lines.append(_line(row, mark))
    return "\n".join([*lines, ""])


def _line(row: Row, mark: str) -> str:
    if row.value is None:
        why = row.detail.get("lacks", "")
        return f"| {row.workload} | {row.name}{mark} | {row.subject} | – | {why} | | | | | | |"
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    cells = [
        str(row.workload),
        row.name + mark,
        row.subject,
        number(row.value),
        f"{number(row.low)} – {number(row.high)}",
        row.unit,
        row.reference,
        number(row.reference_value),
        number(row.ratio),
        row.goal.replace("<=", "≤").replace(">=", "≥"),
        met,
    ]
    return "| " + " | ".join(cells) + " |"


def number(value: float | None) -> str:
    """Format a figure with three significant digits, whole numbers with commas."""
    if value is None:
        return ""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _environments(rows: Sequence[Row]) -> dict[str, str]:
    """Assign a letter to each environment."""
    texts = dict.fromkeys(_environment(row) for row in rows)
    return {text: f"({chr(ord('a') + place % 26)})" for place, text in enumerate(texts)}


def _environment(row: Row) -> str:
    """Describe the environment of a row, without the packages, which differ by subject."""
    found = row.environment
    if not found:
        return "unknown"
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    return (
        f"{found['date']}{', quick' if found.get('quick') else ''}, {found['cores']} cores, "
        f"{found['machine']}: PostgreSQL {found['postgresql']} ({settings}), "
        f"Python {found['python']}"
    )


def _packages(rows: Sequence[Row]) -> str:
    """List the packages of all rows, with every version."""
    found: dict[str, None] = {}
    for row in rows:
        for name, version in row.environment.get("packages", {}).items():
            found[f"{name} {version}"] = None
    return ", ".join(found)


def summary(row: Row) -> str:
    """Return one line about a row, for a terminal."""
    if row.value is None:
        return f"{row.workload:>3}  {row.subject}: {row.name}: {row.detail.get('lacks', '')}"
    who = "" if row.subject == "pgque" else f"{row.subject}: "
    text = f"{row.workload:>3}  {who}{row.name}: {number(row.value)} {row.unit}"
    if row.ratio is not None:
        text += f", {row.ratio:.2f} × {row.reference}"
    if row.goal:
        text += f" (goal {row.goal}{'' if row.met else ': not met'})"
    return text


def title(workload: int) -> str:
    """Return the title of a workload."""
    return f"{workload} {TITLES.get(workload, '')}".strip()
