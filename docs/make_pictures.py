"""Draw the pictures of concepts.md: `python docs/make_pictures.py` writes them to its folder."""

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH = 760

LIGHT = """
    .paper { fill: #ffffff; stroke: #d0d7de }
    text { fill: #1f2328 }
    .dim, .dim text { fill: #59636e }
    .tick, .axis { stroke: #59636e }
    .a { fill: #b6d4fe } .b { fill: #ffdf9e } .c { fill: #c3e8c5 } .d { fill: #eceff2 }
    .a, .b, .c, .d { stroke: #59636e }
    .ink { fill: #1f2328 }
"""
DARK = """
    .paper { fill: #0d1117; stroke: #3d444d }
    text { fill: #f0f6fc }
    .dim, .dim text { fill: #9198a1 }
    .tick, .axis { stroke: #9198a1 }
    .a { fill: #1c4a86 } .b { fill: #7a5200 } .c { fill: #1f5c2e } .d { fill: #21262d }
    .a, .b, .c, .d { stroke: #9198a1 }
    .ink { fill: #f0f6fc }
"""


class Picture:
    """An SVG, drawn from top left to bottom right."""

    def __init__(self, title: str, height: int) -> None:
        self._title = title
        self._height = height
        self._parts: list[str] = []

    def text(self, x: float, y: float, words: str, *, at: str = "middle", kind: str = "") -> None:
        """Write words at a point, which is their middle, start or end, as `at` says."""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{at}" class="{kind}">{escape(words)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draw a rectangle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" '
            f'class="{kind}"/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str, end: str = "") -> None:
        """Draw a line, with an arrow if `end` is given."""
        arrow = ' marker-end="url(#arrow)"' if end else ""
        dash = ' stroke-dasharray="5 4"' if kind == "tick" else ""
        self._parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{kind}" '
            f'stroke-width="1.5"{dash}{arrow}/>'
        )

    def event(self, x: float, y: float, number: int, kind: str) -> None:
        """Draw an event: a circle with its id."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="13" class="{kind}"/>')
        self.text(x, y + 5, str(number))

    def svg(self, *, dark: bool = False) -> str:
        """Return the picture. It follows the reader's colour scheme, or is dark for a preview."""
        style = DARK if dark else f"{LIGHT}  @media (prefers-color-scheme: dark) {{{DARK}  }}\n"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" '
            f'width="{WIDTH}" height="{self._height}" role="img" '
            'font-family="system-ui, sans-serif" font-size="14">\n'
            f"<title>{escape(self._title)}</title>\n"
            f"<style>{style}</style>\n"
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" class="ink"/></marker></defs>\n'
            f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{self._height - 1}" rx="6" '
            'class="paper"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )


def log() -> Picture:
    """Draw the log of a queue, cut by ticks, and the positions of two consumers."""
    picture = Picture("A log cut by ticks, and the positions of two consumers", 250)
    left, step, top = 40.0, 52.0, 62.0
    events = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c"), (7, "c"), (8, "c")]
    events += [(9, "c"), (10, "d"), (11, "d")]
    for place, (number, kind) in enumerate(events):
        picture.box(left + place * step, top, step - 8, 40, kind)
        picture.text(left + place * step + (step - 8) / 2, top + 25, str(number))
    picture.text(left + 11 * step, top + 25, "→ new events", at="start", kind="dim")
    ticks = {1: 0, 2: 3, 3: 5, 4: 9}
    for number, place in ticks.items():
        x = left + place * step - 4
        picture.line(x, 40, x, 150, "tick")
        picture.text(x, 30, f"tick {number}")
    for name, begin, end in (("window", 0, 3), ("window", 3, 5), ("window", 5, 9)):
        x = left + (begin + end) / 2 * step - 4
        picture.text(x, top + 62, name, kind="dim")
    picture.text(left + 10 * step, top + 62, "no tick yet", kind="dim")
    for words, tick, y, side, at in (
        ("billing is here: 4 and 5 are next", 2, 186, 10, "start"),
        ("shipping is here: nothing is ready", 4, 222, -10, "end"),
    ):
        x = left + ticks[tick] * step - 4
        picture.line(x, y + 4, x, 154, "axis", "arrow")
        picture.text(x + side, y + 4, words, at=at)
    return picture


def snapshots() -> Picture:
    """Draw the transactions of three producers: the first tick that sees an event gets it."""
    picture = Picture("Which batch an event belongs to: the first tick after its commit", 270)
    left, right = 110, WIDTH - 30
    ticks = {1: 150, 2: 370, 3: 610}
    for number, x in ticks.items():
        picture.line(x, 40, x, 205, "tick")
        picture.text(x, 30, f"tick {number}")
    rows = [
        ("producer A", [(170, 290, "a", [(200, 1)]), (410, 540, "b", [(450, 4), (490, 5)])]),
        ("producer B", [(220, 560, "b", [(250, 2)])]),
        ("producer C", [(250, 345, "a", [(300, 3)]), (580, 700, "d", [(640, 6)])]),
    ]
    for row, (name, transactions) in enumerate(rows):
        y = 75 + row * 50
        picture.text(left - 10, y + 5, name, at="end")
        for begin, end, kind, events in transactions:
            picture.box(begin, y - 19, end - begin, 38, "d")
            for x, number in events:
                picture.event(x, y, number, kind)
    picture.line(left, 214, right, 214, "axis", "arrow")
    picture.text(right, 232, "time", at="end", kind="dim")
    picture.text((ticks[1] + ticks[2]) / 2, 234, "batch of tick 2: 1, 3")
    picture.text((ticks[2] + ticks[3]) / 2, 234, "batch of tick 3: 2, 4, 5")
    caption = "A bar is a transaction, from begin to commit; a circle is an event that it sent."
    picture.text(left, 258, caption, at="start", kind="dim")
    return picture


def rotation() -> Picture:
    """Draw the three tables of a log, before and after two rotations."""
    picture = Picture("Rotation: the oldest of three tables is emptied and written to next", 210)
    moments = [
        ("now", [("written to", "c"), ("oldest", "b"), ("kept", "a")]),
        ("one rotation later", [("kept", "c"), ("written to", "d"), ("oldest", "a")]),
        ("two rotations later", [("oldest", "c"), ("kept", "d"), ("written to", "d")]),
    ]
    for column, (moment, tables) in enumerate(moments):
        x = 30 + column * 245
        picture.text(x + 105, 32, moment)
        for row, (words, kind) in enumerate(tables):
            y = 48 + row * 42
            picture.box(x, y, 210, 34, kind)
            picture.text(x + 10, y + 22, f"event_1_{row}", at="start")
            picture.text(x + 200, y + 22, words, at="end")
        if column:
            picture.line(x - 28, 107, x - 8, 107, "axis", "arrow")
    caption = "Each colour is one table's events. TRUNCATE follows when all have seen the oldest."
    picture.text(30, 194, caption, at="start", kind="dim")
    return picture


def cursor() -> Picture:
    """Draw a consumer in a window: batches, an ack, a refused message that is redelivered."""
    picture = Picture("A consumer in a window: batches of four, and one refused message", 316)
    left, step = 160.0, 45.0
    steps = [
        ("receive", "aaaaddddddd", 0, "at tick 1, holds 1 to 4 until it acks"),
        ("nack 3, ack, receive", "..b.aaaaddd", 4, "after 4, holds 5 to 8; 3 waits"),
        ("ack, receive, ack", "..b.......d", 10, "at tick 2: the window is done"),
        ("a minute later", "..........ab", 10, "holds 11 and 3, put back for this consumer alone"),
    ]
    for number, place in ((1, 0), (2, 10), (3, 12)):
        x = left + place * step - 4
        picture.line(x, 36, x, 300, "tick")
        picture.text(x, 26, f"tick {number}")
    for row, (words, kinds, stands, caption) in enumerate(steps):
        y = 50 + row * 64
        picture.text(left - 16, y + 19, words, at="end")
        again = row == len(steps) - 1
        for place, kind in enumerate(kinds):
            number = 3 if again and place == 11 else place + 1
            x = left + place * step
            if kind != ".":
                picture.box(x, y, step - 8, 28, kind)
            dim = "dim" if kind in ".d" else ""
            picture.text(x + (step - 8) / 2, y + 19, str(number), kind=dim)
        x = left + stands * step - 4
        picture.line(x, y + 50, x, y + 32, "axis", "arrow")
        at, side = ("start", 9) if stands < 6 else ("end", -9)
        picture.text(x + side, y + 48, caption, at=at, kind="dim")
    return picture


def group() -> Picture:
    """Draw two members of a group: windows, pieces, and the takeover from a dead member."""
    picture = Picture("A group of two: each piece is given to one member, even when one dies", 300)
    left, step, top = 110.0, 50.0, 46.0
    picture.text(left - 16, top + 24, "log", at="end")
    for place, kind in enumerate("aaabbbccc"):
        picture.box(left + place * step, top, step - 8, 38, kind)
        picture.text(left + place * step + (step - 8) / 2, top + 24, str(place + 1))
    for number, place in ((1, 0), (2, 3), (3, 9)):
        x = left + place * step - 4
        picture.line(x, top - 10, x, top + 52, "tick")
        picture.text(x, top - 18, f"tick {number}")
    caption = "The second window is larger than max_messages, 3 here: two pieces."
    picture.text(left, top + 74, caption, at="start", kind="dim")
    lanes = {"ann": 168.0, "bob": 218.0}
    for name, y in lanes.items():
        picture.text(left - 16, y + 5, name, at="end")
    pieces = [
        ("ann", 0, 120, "a", "1 to 3"),
        ("bob", 14, 150, "b", "4 to 6"),
        ("ann", 134, 130, "c", "7 to 9"),
        ("ann", 400, 130, "b", "4 to 6 again"),
    ]
    for name, begin, width, kind, words in pieces:
        picture.box(left + begin, lanes[name] - 16, width, 32, kind)
        picture.text(left + begin + width / 2, lanes[name] + 5, words)
    death, taken = left + 164, left + 396
    picture.text(death + 12, lanes["bob"] + 5, "killed", at="start")
    picture.line(death, lanes["bob"] + 28, taken, lanes["bob"] + 28, "axis", "arrow")
    picture.text((death + taken) / 2, lanes["bob"] + 24, "dead_interval", kind="dim")
    picture.line(left, 258, WIDTH - 30, 258, "axis", "arrow")
    picture.text(WIDTH - 30, 276, "time", at="end", kind="dim")
    caption = "The takeover has a new batch id, so a late ack of the old owner does nothing."
    picture.text(left, 284, caption, at="start", kind="dim")
    return picture


PICTURES = {
    "log.svg": log,
    "snapshots.svg": snapshots,
    "cursor.svg": cursor,
    "group.svg": group,
    "rotation.svg": rotation,
}


def main() -> None:
    """Write the pictures."""
    for name, draw in PICTURES.items():
        Path(__file__).with_name(name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
