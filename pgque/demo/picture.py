"""The live display, drawn with rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pgque.demo.scene import Scene
from pgque.demo.tables import GROUP, MEMBERS
from pgque.demo.watch import Reading
from pgque.watching.readable import duration

if TYPE_CHECKING:
    from typing_extensions import Self

CARRIERS = 5
LATE = 15.0
"""Minutes of delay from which airlines call a departure late."""
HAPPENINGS = 3
LEGEND = "lag: age of the oldest pending event     median, p99: from send to handler"


class LiveView:
    """A display that is redrawn for each scene."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)

    def show(self, scene: Scene) -> None:
        """Draw the scene."""
        self._live.update(draw(scene), refresh=True)

    def say(self, line: str) -> None:
        """Print one line, above the display if it is running."""
        self._console.print(escape(line), soft_wrap=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()


def draw(scene: Scene) -> RenderableType:
    """Return the whole display."""
    if scene.reading is None:
        return Text("starting the processes ...")
    parts: list[RenderableType] = [_journey(scene, scene.reading), Text()]
    parts += [_consumers(scene, scene.reading), Text(LEGEND, style="dim"), Text()]
    parts += [_carriers(scene.reading), Text()]
    lines = scene.happenings[-HAPPENINGS:]
    parts += [Text(line, style="yellow", no_wrap=True, overflow="ellipsis") for line in lines]
    parts += [Text() for _ in range(HAPPENINGS - len(lines))]
    title = "[b]pgque demo[/b]  flights that left New York, 1 to 7 January 2013"
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, width=80)


def _journey(scene: Scene, reading: Reading) -> RenderableType:
    when = reading.departure
    row = Table.grid(padding=(0, 2), expand=True)
    for ratio in (None, 1, None, None):
        row.add_column(ratio=ratio, justify="left" if ratio else "right", no_wrap=True)
    row.add_row(
        f"{when:%a} {when.day} {when:%b %H:%M}" if when else "",
        ProgressBar(total=scene.total, completed=reading.sent),
        f"[b]{reading.sent:,}[/b] of {scene.total:,} sent",
        f"{scene.elapsed:.1f} s",
    )
    return row


def _consumers(scene: Scene, reading: Reading) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("consumer", no_wrap=True)
    table.add_column("processes", no_wrap=True, min_width=16)
    table.add_column("delivered", justify="right")
    for name in ("lag", "median", "p99"):
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    table.add_column("retries", justify="right")
    table.add_column("dead", justify="right")
    for name, figures in reading.consumers.items():
        audit = name == "audit"
        table.add_row(
            f"[cyan]{name}[/cyan]",
            _processes(scene, name),
            f"[b]{figures.delivered:,}[/b]",
            *(duration(seconds) for seconds in (figures.lag, figures.median, figures.p99)),
            str(reading.retries if audit else 0),
            f"[red]{reading.dead}[/red]" if audit and reading.dead else "0",
        )
    return table


def _processes(scene: Scene, consumer: str) -> Text:
    text = Text()
    for member in MEMBERS if consumer == GROUP else [consumer]:
        pid = scene.processes.get(member, 0)
        if member in scene.killed:
            text.append("killed ", style="red")
        else:
            text.append(f"{pid} ", style="green")
    return text


def _delay(minutes: float, longest: float) -> ProgressBar:
    # By default rich draws a full bar in green, as if the longest delay were an achievement.
    style = "red" if minutes >= LATE else "yellow"
    return ProgressBar(
        total=longest,
        completed=max(minutes, 0),
        width=28,
        complete_style=style,
        finished_style=style,
    )


def _carriers(reading: Reading) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    longest = max((float(mean) for _, _, mean in reading.carriers), default=1.0)
    for carrier, departures, mean in reading.carriers[:CARRIERS]:
        table.add_row(
            f"[cyan]{carrier}[/cyan]",
            f"{departures:,} departures",
            f"{mean} min late",
            _delay(float(mean), max(longest, 1)),
        )
    for _ in range(CARRIERS - len(reading.carriers)):
        table.add_row("")
    return table
