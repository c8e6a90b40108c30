"""A list that fits its columns to the width, sorts, filters and keeps its cursor on a row."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from pgque.watching.readable import printable

T = TypeVar("T")

HEAD: Final = 1
"""Number of title lines."""


class Cell(NamedTuple):
    """The content of one cell."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a list."""

    title: str
    cell: Callable[[T, int], Cell]
    """Returns the cell of a thing for a width in characters."""
    key: Callable[[T], Any] | None = None
    """Returns the sort key; None if the column cannot be sorted."""
    width: int | Callable[[int], int] = 0
    """In characters, fixed or computed from the list's width. Columns with 0 share the rest."""
    left: bool = False
    """Whether it is aligned left, like words, or right, like numbers."""
    largest_first: bool = True
    """Whether the first sort by this column is in descending order."""
    from_width: int = 0
    """The smallest width of the list at which the column is shown."""

    def wide(self, room: int) -> int:
        """Return its width in a list of width ``room``; 0 if it shares the rest."""
        return self.width if isinstance(self.width, int) else self.width(room)


class Listing(ScrollView, Generic[T], can_focus=True):
    """A list of things. Each refresh passes all of them to `show`, in their default order.

    It draws only the visible lines.

    :param columns: its columns.
    :param identify: returns a thing's identity, so that the cursor can stay on it.
    :param search: returns the text of a thing that the filter searches.
    :param sort: the title of the initial sort column; None keeps the default order.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", key_display="⏎"),
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+b", "turn(-1)", show=False),
        Binding("pagedown,ctrl+f", "turn(1)", show=False),
        Binding("home,g", "first", show=False),
        Binding("end,G", "last", show=False),
    ]

    COMPONENT_CLASSES: ClassVar[set[str]] = {"listing--head", "listing--cursor"}

    DEFAULT_CSS = """
    Listing { height: 1fr; overflow-x: hidden; scrollbar-size-vertical: 1; }
    Listing > .listing--head { background: $panel; color: $foreground; text-style: bold; }
    Listing > .listing--cursor {
        background: $block-cursor-blurred-background; color: $block-cursor-blurred-foreground;
    }
    Listing:focus > .listing--cursor {
        background: $block-cursor-background; color: $block-cursor-foreground;
    }
    """

    class Opened(Message):
        """The user opens a line."""

        def __init__(self, thing: Any) -> None:
            super().__init__()
            self.thing = thing

    def __init__(
        self,
        columns: Sequence[Column[T]],
        *,
        identify: Callable[[T], Hashable],
        search: Callable[[T], str],
        sort: str | None = None,
    ) -> None:
        super().__init__()
        self.cursor = 0
        """The row of the cursor."""
        self._columns = columns
        self._identify = identify
        self._search = search
        self._sort = next((c for c in columns if c.title == sort), None)
        self._down = self._sort is not None and self._sort.largest_first
        self._filter_text = ""
        self._all: Sequence[T] = ()
        self._shown: list[T] = []
        self._widths: list[tuple[Column[T], int]] = []

    @property
    def selected(self) -> T | None:
        """The thing under the cursor, if any."""
        return self._shown[self.cursor] if self.cursor < len(self._shown) else None

    @property
    def shown(self) -> Sequence[T]:
        """The things shown, in order."""
        return self._shown

    @property
    def order(self) -> str:
        """The sort column and direction, as text."""
        return "" if self._sort is None else f"{self._sort.title} {'▼' if self._down else '▲'}"

    @property
    def filter_text(self) -> str:
        """The filter: only things that contain this text are shown, in any case."""
        return self._filter_text

    @filter_text.setter
    def filter_text(self, text: str) -> None:
        self._filter_text = text
        self.show(self._all)

    def show(self, things: Sequence[T]) -> None:
        """Replace the things."""
        under = self.selected
        wanted = None if under is None else self._identify(under)
        self._all = things
        text = self._filter_text.casefold()
        shown = [x for x in things if text in self._search(x).casefold()] if text else [*things]
        if self._sort is not None and (key := self._sort.key) is not None:
            shown.sort(key=lambda thing: _sortable(key(thing)), reverse=self._down)
        self._shown = shown
        self.virtual_size = Size(self.size.width, len(shown) + HEAD)
        # A cursor on the first line stays there, where the worst or newest thing is.
        rows = (n for n, thing in enumerate(shown) if self._identify(thing) == wanted)
        self._move_to(next(rows, self.cursor) if self.cursor else 0)

    def _move_to(self, row: int) -> None:
        moved = row != self.cursor
        self.cursor = max(0, min(row, len(self._shown) - 1))
        if moved or self.cursor != row:
            top, seen = self.scroll_offset.y, max(1, self.size.height - HEAD)
            if self.cursor < top:
                self.scroll_to(y=self.cursor, animate=False)
            elif self.cursor >= top + seen:
                self.scroll_to(y=self.cursor - seen + 1, animate=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return a visible line: the titles or a thing."""
        width, base = self.size.width, self.rich_style
        row = self.scroll_offset.y + y - HEAD
        if y == 0:
            style = base + self.get_component_rich_style("listing--head", partial=True)
            cells = [
                Cell(column.title, "reverse" if column is self._sort else "")
                for column, _ in self._widths
            ]
            return self._strip(cells, style, Style(), width)
        if row >= len(self._shown):
            return Strip.blank(width, base)
        thing = self._shown[row]
        cells = [column.cell(thing, room) for column, room in self._widths]
        over = Style()
        if row == self.cursor:
            over = self.get_component_rich_style("listing--cursor", partial=True)
        return self._strip(cells, base, over, width)

    def _strip(self, cells: list[Cell], base: Style, over: Style, width: int) -> Strip:
        gap = Segment(" ", base + over)
        segments: list[Segment] = []
        for cell, (column, room) in zip(cells, self._widths, strict=True):
            text = cell.text if column.left else cell.text.rjust(room)
            style = base + Style.parse(cell.style) + over
            segments += (Segment(set_cell_size(text, room), style), gap)
        return Strip(segments).adjust_cell_length(width, base + over)

    def on_resize(self, event: Resize) -> None:
        """Fit the columns to the new width."""
        room = event.size.width
        columns = [column for column in self._columns if column.from_width <= room]
        fixed = sum(column.wide(room) for column in columns) + len(columns) - 1
        sharing = sum(column.wide(room) == 0 for column in columns)
        share = max(4, (room - fixed) // max(1, sharing))
        self._widths = [(column, column.wide(room) or share) for column in columns]
        self.show(self._all)

    def on_click(self, event: Click) -> None:
        """On a title, sort by its column. On a line, move the cursor there, or open it."""
        if event.y == 0:
            end = 0
            for column, width in self._widths:
                end += width + 1
                if event.x < end:
                    self._sort_by(column)
                    break
            return
        row = self.scroll_offset.y + event.y - HEAD
        if row == self.cursor:
            self.action_open()
        elif row < len(self._shown):
            self._move_to(row)

    def action_open(self) -> None:
        """Open the line under the cursor."""
        if (thing := self.selected) is not None:
            self.post_message(self.Opened(thing))

    def action_move(self, lines: int) -> None:
        """Move the cursor by a number of lines."""
        self._move_to(max(0, self.cursor + lines))

    def action_turn(self, pages: int) -> None:
        """Move the cursor by a number of screens."""
        self.action_move(pages * max(1, self.size.height - HEAD))

    def action_first(self) -> None:
        """Move the cursor to the first line."""
        self._move_to(0)

    def action_last(self) -> None:
        """Move the cursor to the last line."""
        self._move_to(len(self._shown) - 1)

    def action_sort_next(self) -> None:
        """Sort by the next column."""
        able = [column for column, _ in self._widths if column.key is not None]
        if able:
            at = able.index(self._sort) if self._sort in able else -1
            self._sort_by(able[(at + 1) % len(able)])

    def action_sort_reverse(self) -> None:
        """Reverse the order."""
        self._down = not self._down
        self.show(self._all)

    def _sort_by(self, column: Column[T]) -> None:
        if column.key is None:
            return
        if column is self._sort:
            self._down = not self._down
        else:
            self._sort, self._down = column, column.largest_first
        self.show(self._all)


def shorten(text: str, width: int) -> str:
    """Return a name that fits the width. A long one keeps its beginning and its end."""
    text = printable(text)
    if cell_len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{set_cell_size(text, width - 1 - end).rstrip()}…{text[-end:] if end else ''}"


def cut(text: str | None, width: int) -> str:
    """Return the beginning of a text, on one line."""
    text = printable(" ".join((text or "").split()))
    return text if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 1))}…"


def _sortable(value: Any) -> tuple[bool, Any]:
    return value is not None, value
