"""Plots of the results. Each title says what the plot shows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator

from bench.measure import Row, bound
from bench.peers import NAMES
from bench.report import number

INK, SOFT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
OURS, GOOD, BAD, REFERENCE = "#0b69a3", "#18965a", "#d64545", "#9aa5b1"
OTHERS = ("#6b7c93", "#e8833a", "#8e6bbf", "#3fa79b", "#c2577f", "#a68a3a")

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "pgque",  # the same figures produce the same file
    "svg.fonttype": "path",
}

LEAST_SHOWN, MOST_SHOWN = 0.25, 4
"""Shares of a goal's allowance. A figure below or above is drawn at the end, as an arrow."""

Figure = Any
Axes = Any


def draw(rows: Sequence[Row], folder: Path, kind: str = "svg") -> list[Path]:
    """Draw every plot that has rows; return the files."""
    drawn = []
    with mpl.rc_context(STYLE):
        for name, make in PLOTS.items():
            figure = make([row for row in rows if row.value is not None])
            if figure is None:
                continue
            path = folder / f"{name}.{kind}"
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(path, bbox_inches="tight", pad_inches=0.2, dpi=130, metadata=metadata)
            plt.close(figure)
            drawn.append(path)
    return drawn


def _of(rows: Iterable[Row], *workloads: int) -> list[Row]:
    return [row for row in rows if row.workload in workloads]


def _subjects(rows: Iterable[Row]) -> list[str]:
    """Return the contestants, pgque first."""
    return sorted({row.subject for row in rows}, key=lambda name: (name != "pgque", name))


def _color(subject: str) -> str:
    """Return a subject's color, the same in all plots."""
    if subject in NAMES:
        return OTHERS[NAMES.index(subject) % len(OTHERS)]
    return OURS if subject == "pgque" else SOFT


def _plain_log(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Label lines at their right ends; move labels apart if they would overlap."""
    axes.figure.canvas.draw()
    height = axes.bbox.height
    places = []
    for x, y, text, color in ends:
        _, at = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        places.append([at * height, text, color])
    places.sort(key=lambda place: place[0])
    gap = 17 * axes.figure.dpi / 100
    for before, after in pairwise(places):
        after[0] = max(after[0], before[0] + gap)
    for at, text, color in places:
        axes.annotate(
            text,
            (1.015, at / height),
            xycoords="axes fraction",
            va="center",
            color=color,
            fontweight="bold" if color == OURS else "normal",
            annotation_clip=False,
        )


def ratios(rows: Sequence[Row]) -> Figure | None:
    """For each goal, how much of its allowance the figure uses."""
    shown = []
    for row in rows:
        limit = bound(row.goal)
        measured = row.value if row.ratio is None else row.ratio
        if limit is not None and row.subject == "pgque" and measured is not None:
            shown.append((row, measured, _used(measured, *limit)))
    if not shown:
        return None
    figure, axes = plt.subplots(figsize=(9.5, 0.32 * len(shown) + 1.4))
    for place, (row, measured, used) in enumerate(shown):
        color = GOOD if row.met else BAD
        shape = "<" if used < LEAST_SHOWN else ">" if used > MOST_SHOWN else "o"
        used = min(max(used, LEAST_SHOWN), MOST_SHOWN)
        axes.plot([1, used], [place, place], color=color, linewidth=2, alpha=0.35)
        axes.plot(used, place, shape, color=color, markersize=7)
        text = f"{number(measured)}   (goal {_pretty(row.goal)})"
        axes.annotate(
            text, (1.02, place), xycoords=("axes fraction", "data"), va="center", color=SOFT, size=9
        )
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.set_yticks(range(len(shown)), [f"{row.name}  ·  {row.workload}" for row, _, _ in shown])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.set_ylim(len(shown) - 0.4, -0.8)
    axes.set_xscale("log", base=2)
    _plain_log(axes.xaxis)
    axes.set_xlabel("left of the line the goal is met")
    axes.set_title("What was measured, as part of what its goal allows")
    axes.grid(visible=False, axis="y")
    return figure


def _used(measured: float, comparison: str, limit: float) -> float:
    """Return the share of its allowance that a figure uses."""
    part, whole = (measured, limit) if comparison[0] == "<" else (limit, measured)
    if whole:
        return part / whole
    return math.inf if part > 0 else 0.0


def _pretty(goal: str) -> str:
    return goal.replace("<=", "≤").replace(">=", "≥")


def rates(rows: Sequence[Row]) -> Figure | None:
    """Bulk enqueue and drain, pgque and peers, with the limit that COPY and SELECT set."""
    panels = [(2, "Bulk enqueue of 1,000, events/s"), (5, "Drained by its worker, events/s")]
    panels = [panel for panel in panels if _of(rows, panel[0])]
    if not panels:
        return None
    subjects = _subjects(_of(rows, 2, 5))
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(5.4 * len(panels), 0.46 * len(subjects) + 1.5), squeeze=False
    )
    for axes, (workload, heading) in zip(all_axes[0], panels, strict=True):
        bars: list[tuple[str, float, str]] = []
        for subject in subjects:
            found = [row for row in _of(rows, workload) if row.subject == subject]
            if not found:
                continue
            row = found[0]
            if subject == "pgque" and row.reference_value:
                reference = row.reference.split(" of ")[0]
                bars.append((reference, row.reference_value, REFERENCE))
            bars.append((subject, row.value or 0, _color(subject)))
        bars.sort(key=lambda bar: bar[1])
        axes.barh(
            [bar[0] for bar in bars], [bar[1] for bar in bars], 0.62, color=[bar[2] for bar in bars]
        )
        for place, (_, rate, _) in enumerate(bars):
            axes.annotate(
                number(float(f"{rate:.3g}")),
                (rate, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                size=10,
            )
        axes.set_xscale("log")
        lowest, highest = bars[0][1], bars[-1][1]
        axes.set_xlim(10 ** (math.floor(math.log10(lowest)) - 0.5), highest * 6)
        _plain_log(axes.xaxis)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_title(heading)
        axes.grid(visible=False, axis="y")
    figure.tight_layout(w_pad=3)
    return figure


def latency(rows: Sequence[Row]) -> Figure | None:
    """Send to handler by rate: a line for the median, a shade up to the 99th percentile."""
    found = [row for row in _of(rows, 6) if "rate" in row.detail]
    if not found:
        return None
    subjects = _subjects(found)
    figure, axes = plt.subplots(figsize=(8, 4.6))
    ends = []
    for subject in reversed(subjects):
        points = sorted(
            (row.detail["rate"], row.value, row.detail.get("p99", row.value))
            for row in found
            if row.subject == subject and row.value is not None
        )
        x, y, high = zip(*points, strict=True)
        color = _color(subject)
        axes.plot(x, y, "o-", color=color, linewidth=2.6 if subject == "pgque" else 1.6)
        if subject == "pgque":
            axes.fill_between(x, y, high, color=color, alpha=0.12, linewidth=0)
            axes.annotate(
                "99th percentile",
                (x[0], high[0]),
                xytext=(4, 4),
                textcoords="offset points",
                color=color,
                size=9,
            )
        ends.append((x[-1], y[-1], subject, color))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sorted({row.detail["rate"] for row in found}))
    _plain_log(axes.xaxis)
    _plain_log(axes.yaxis)
    axes.set_xlabel("events a second")
    axes.set_ylabel("ms, median")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.set_title("From send to handler")
    _label_ends(axes, ends)
    return figure


def horizon(rows: Sequence[Row]) -> Figure | None:
    """From send to handler, second by second, while a transaction pins the xmin horizon."""
    found = [row for row in _of(rows, 9) if row.detail.get("curve")]
    if not found:
        return None
    subjects = _subjects(found)
    figure, axes = plt.subplots(figsize=(8, 4.6))
    ends = []
    for row in sorted(found, key=lambda row: subjects.index(row.subject), reverse=True):
        x, y = zip(*row.detail["curve"], strict=True)
        color = _color(row.subject)
        axes.plot(x, y, color=color, linewidth=2.6 if row.subject == "pgque" else 1.6)
        ends.append((max(x), y[-1], row.subject, color))
    axes.set_yscale("log")
    _plain_log(axes.xaxis)
    _plain_log(axes.yaxis)
    axes.set_xlabel(found[0].detail.get("x", "cycles"))
    axes.set_ylabel("ms from send to handler, 300 a second")
    axes.set_title("While something holds the xmin horizon")
    _label_ends(axes, ends)
    return figure


def backlog(rows: Sequence[Row]) -> Figure | None:
    """Receive and ack at different backlogs."""
    found = [row for row in _of(rows, 10) if "backlog" in row.detail]
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(8, 4))
    colors = (OURS, OTHERS[0])
    ends = []
    top = 0.0
    kinds = list(dict.fromkeys(row.detail["windows"] for row in found))
    for windows, color in zip(kinds, colors, strict=False):
        lines = [row for row in found if row.detail["windows"] == windows]
        x = [row.detail["backlog"] for row in lines]
        y = [row.value or 0 for row in lines]
        axes.plot(x, y, "o-", color=color, linewidth=2.4)
        top = max(top, *y)
        ends.append((x[-1], y[-1], windows, color))
    axes.set_xscale("log")
    _plain_log(axes.xaxis)
    axes.set_ylim(0, top * 1.6)
    axes.set_xlabel("events in the backlog")
    axes.set_ylabel("µs per event")
    axes.set_title("Receive and ack of 100, by backlog")
    _label_ends(axes, ends)
    return figure


def groups(rows: Sequence[Row]) -> Figure | None:
    """How much faster a cooperative group of N is than one worker."""
    found = [row for row in _of(rows, 13) if "workers" in row.detail]
    if len(found) < 2:
        return None
    x = [row.detail["workers"] for row in found]
    y = [row.ratio or 1.0 for row in found]
    figure, axes = plt.subplots(figsize=(6.4, 4.6))
    axes.plot(x, x, color=REFERENCE, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.plot(x, y, "o-", color=OURS, linewidth=2.6)
    for workers, speed in list(zip(x, y, strict=True))[1:]:
        axes.annotate(
            f"{speed:.1f}",
            (workers, speed),
            xytext=(-2, -17),
            textcoords="offset points",
            color=OURS,
            size=10,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(x)
    axes.set_yticks(x)
    _plain_log(axes.xaxis)
    _plain_log(axes.yaxis)
    axes.set_xlabel("workers, 5 ms of work per message")
    axes.set_ylabel("times as fast as one")
    axes.set_title("A cooperative group")
    _label_ends(axes, [(x[-1], x[-1], "ideal", SOFT), (x[-1], y[-1], "pgque", OURS)])
    return figure


def soak(rows: Sequence[Row]) -> Figure | None:
    """Half an hour of load: events handled, delay and disk space."""
    curves = {row.name: row for row in _of(rows, 18) if row.detail.get("curve")}
    late = curves.get("send to handler, last third")
    room = curves.get("most room that the schema took")
    if late is None or room is None:
        return None
    trouble = [span for row in _of(rows, 18) for span in row.detail.get("trouble", ())]
    second, handled, median, p99 = zip(*_by_five(late.detail["curve"]), strict=True)
    minutes = [moment / 60 for moment in second]
    figure, (rate, delay, disk) = plt.subplots(3, 1, figsize=(9.5, 7.2), sharex=True)
    rate.plot(minutes, handled, color=OURS, linewidth=1.4)
    rate.set_ylim(0, 1.3 * max(handled))
    rate.set_ylabel("handled a second")
    delay.plot(minutes, p99, color=OTHERS[0], linewidth=1.2, label="99th percentile")
    delay.plot(minutes, median, color=OURS, linewidth=1.4, label="median")
    delay.set_yscale("log")
    delay.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    _plain_log(delay.yaxis)
    delay.set_ylabel("ms to handler")
    delay.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, frameon=False)
    moment, size = zip(*((at, size) for at, size in room.detail["curve"] if at >= 0), strict=True)
    disk.plot([at / 60 for at in moment], size, color=OURS, linewidth=1.4)
    disk.set_ylim(bottom=0)
    disk.set_ylabel("MB on disk")
    disk.set_xlabel("minutes; shaded: an analytical query (narrow), a pinned xmin horizon (wide)")
    for axes in (rate, delay, disk):
        for _, begin, end in trouble:
            axes.axvspan(begin / 60, end / 60, color=REFERENCE, alpha=0.18, linewidth=0)
    rate.set_title("2,000 events a second, rotation each minute")
    return figure


def _by_five(curve: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return medians of five seconds each, of second, handled, median and 99th percentile."""
    parts = [curve[start : start + 5] for start in range(0, len(curve) - 4, 5)]
    return [[statistics.median(line[at] for line in part) for at in range(4)] for part in parts]


PLOTS: dict[str, Callable[[Sequence[Row]], Figure | None]] = {
    "goals": ratios,
    "latency": latency,
    "horizon": horizon,
    "rates": rates,
    "backlog": backlog,
    "groups": groups,
    "soak": soak,
}
"""By the file's name."""
