"""What people see while the demo runs: plain lines here, a live picture in `picture`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from pgque.demo.scene import Scene
from pgque.demo.watch import Reading
from pgque.watching.readable import duration

if TYPE_CHECKING:
    from typing_extensions import Self

LINE_EVERY = 1.0


class View(Protocol):
    """Shows scenes within its block, and single lines at any time."""

    def show(self, scene: Scene) -> None:
        """Show how things stand."""

    def say(self, line: str) -> None:
        """Print one line that stays."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class PlainView:
    """A line about each second, for logs and pipes."""

    def __init__(self) -> None:
        self._told = 0
        self._last = float("-inf")

    def show(self, scene: Scene) -> None:
        """Print what has happened, and the figures if it is time for them."""
        for line in scene.happenings[self._told :]:
            self.say(line)
        self._told = len(scene.happenings)
        if scene.elapsed - self._last >= LINE_EVERY and scene.reading is not None:
            self._last = scene.elapsed
            self.say("  ".join(_describe(scene, scene.reading)))

    def say(self, line: str) -> None:
        """Print one line at once, also into a pipe."""
        print(line, flush=True)

    def __enter__(self) -> Self:
        self.say("of each consumer: delivered (lag, latency from send to handler: median, p99)")
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def choose_view(plain: bool | None) -> View:
    """Return the live picture for a terminal, plain lines for anything else.

    ``plain`` decides where it is not None; without rich there are only plain lines.
    """
    if plain is None:
        plain = not _can_draw()
    if plain:
        return PlainView()
    try:
        from pgque.demo.picture import LiveView
    except ModuleNotFoundError:
        return PlainView()
    return LiveView()


def _can_draw() -> bool:
    utf8 = (sys.stdout.encoding or "").lower().startswith("utf")
    return sys.stdout.isatty() and utf8 and os.environ.get("TERM", "dumb") != "dumb"


def _describe(scene: Scene, reading: Reading) -> Iterator[str]:
    yield f"{scene.elapsed:5.1f} s"
    yield f"sent {reading.sent:,}/{scene.total:,}"
    for name, figures in reading.consumers.items():
        times = (duration(s) for s in (figures.lag, figures.median, figures.p99))
        yield f"{name} {figures.delivered:,} ({', '.join(times)})"
    yield f"retries {reading.retries}"
    yield f"dead letters {reading.dead}"
