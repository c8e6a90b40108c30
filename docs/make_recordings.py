"""Record `pgque demo`: `python docs/make_recordings.py` writes demo.svg to its folder.

The picture is animated. Recording starts an embedded server and takes half a minute. The picture
differs from run to run.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text
from typing_extensions import Self

from pgque.demo import DEFAULT_RATE
from pgque.demo.picture import draw
from pgque.demo.run import Run, database, tables
from pgque.demo.scene import Scene
from pgque.demo.signals import Signals

COLUMNS = 82
EVERY = 2.5
"""Seconds of the demo from one frame to the next."""
SHOWN, SHOWN_LAST = 1.0, 6.0
"""Seconds for which a frame is shown."""

FRAME = '<style>{styles}</style>{backgrounds}<g class="words">{matrix}</g>'
PAGE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<title>{title}</title>
<style>
.words {{ font: 20px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace }}
{motion}</style>
<rect width="{width:g}" height="{height:g}" rx="10" fill="#191919"/>
<g transform="translate(16, 12)">
{frames}
</g>
</svg>
"""
CHARACTER, LINE = 12.2, 24.4
"""Width and height of a character at 20 px, in rich."""


class Recorder:
    """A view of the demo that keeps a picture of each moment."""

    def __init__(self) -> None:
        self._above: list[RenderableType] = [Text("$ pgque demo")]
        self._below: list[RenderableType] = []
        self._picture: RenderableType | None = None
        self._next = 0.0
        self.frames: list[RenderableType] = []

    def show(self, scene: Scene) -> None:
        """Keep the scene if the next frame is due."""
        self._picture = draw(scene)
        if scene.elapsed >= self._next:
            self._next = scene.elapsed + EVERY
            self.frames.append(Group(*self._above, self._picture))

    def say(self, line: str) -> None:
        """Keep a line: above the picture, or below it once the demo is done."""
        print(line, flush=True)
        (self._above if self._picture is None else self._below).append(Text(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def finish(self) -> None:
        """Add the last frame, with the final count."""
        assert self._picture is not None
        self.frames.append(Group(*self._above, self._picture, *self._below))


def picture(frames: Sequence[RenderableType], title: str) -> str:
    """Return frames as one SVG that loads nothing. Several frames are animated."""
    drawn = [_drawn(frame, f"f{number}") for number, frame in enumerate(frames)]
    height = max(lines for lines, _ in drawn) * LINE + 24
    total = SHOWN * (len(frames) - 1) + SHOWN_LAST
    motion = ""
    for number in range(len(frames) if len(frames) > 1 else 0):
        begin = number * SHOWN / total * 100
        end = begin + SHOWN / total * 100
        last = number == len(frames) - 1
        motion += (
            f".f{number} {{ visibility: hidden; "
            f"animation: k{number} {total:g}s step-end infinite }}\n"
            f"@keyframes k{number} {{ 0% {{ visibility: {'hidden' if number else 'visible'} }} "
            f"{begin:.2f}% {{ visibility: visible }} "
            + ("" if last else f"{end:.2f}% {{ visibility: hidden }} ")
            + "}\n"
        )
    if motion:
        motion += (
            "@media (prefers-reduced-motion: reduce) { g[class^=f] { animation: none } "
            f".f{len(frames) - 1} {{ visibility: visible }} }}\n"
        )
    groups = (f'<g class="f{number}">{svg}</g>' for number, (_, svg) in enumerate(drawn))
    return PAGE.format(
        width=COLUMNS * CHARACTER + 32,
        height=height,
        title=title,
        motion=motion,
        frames="\n".join(groups),
    )


def _drawn(frame: RenderableType, name: str) -> tuple[int, str]:
    """Return the number of lines of a frame, and its drawing."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(frame)
    text = console.export_text(clear=False)
    svg = console.export_svg(code_format=FRAME, theme=DIMMED_MONOKAI, unique_id=name)
    return text.count("\n"), re.sub(r' clip-path="[^"]*"', "", svg)


def demo() -> str:
    """Run the demo and return its picture."""
    recorder = Recorder()
    with (
        Signals() as signals,
        database(None, signals, recorder.say) as dsn,
        tables(dsn, signals, recorder.say) as client,
    ):
        if not Run(dsn, client, DEFAULT_RATE, signals, recorder).run():
            raise SystemExit("the demo failed")
    recorder.finish()
    return picture(recorder.frames, "pgque demo: a consumer is killed halfway, and nothing is lost")


def main() -> None:
    """Write the recording."""
    Path(__file__).with_name("demo.svg").write_text(demo(), encoding="utf-8")


if __name__ == "__main__":
    main()
