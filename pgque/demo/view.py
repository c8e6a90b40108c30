"""Displays the demo's progress: plain lines here, the live display in `picture`."""

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
    """Shows scenes within its block, and prints single lines at any time."""

    def show(self, scene: Scene) -> None:
        """Show the current state."""

    def say(self, line: str) -> None:
        """Print one permanent line."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class PlainView:
    """Prints about one line per second, for logs and pipes."""

    def __init__(self) -> None:
        self._told = 0
        self._last = float("-inf")

    def show(self, scene: Scene) -> None:
        """Print new events of the demo, and the figures once per `LINE_EVERY` seconds."""
        for line in scene.happenings[self._told :]:
            self.say(line)
        self._told = len(scene.happenings)
        if scene.elapsed - self._last >= LINE_EVERY and scene.reading is not None:
            self._last = scene.elapsed
            self.say("  ".join(_describe(scene, scene.reading)))

    def say(self, line: str) -> None:
        """Print one line and flush it."""
        print(line, flush=True)

    def __enter__(self) -> Self:
        self.say("for each consumer: delivered (lag, latency from send to handler: median, p99)")
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def choose_view(plain: bool | None) -> View:
    """Return the live display for a terminal, otherwise plain lines.

    ``plain`` overrides this if it is not None. Without rich there are only plain lines.
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
