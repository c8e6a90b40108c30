"""A list on a screen: columns that fit its width, sorted, filtered, with a cursor that stays."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.widgets import DataTable

from pgque.cli.output import printable

T = TypeVar("T")

SCROLLBAR: Final = 1


class Cell(NamedTuple):
    """What stands in one place."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a list of things."""

    title: str
    cell: Callable[[T, int], Cell]
    """What it shows of a thing in so many characters."""
    key: Callable[[T], Any] | None = None
    """What it is sorted by; None where it cannot be."""
    width: int | Callable[[int], int] = 0
    """In characters, by itself or by the width of the list; 0: it shares what the others leave."""
    left: bool = False
    """Whether it begins at the left, as words do; else it ends at the right, as numbers do."""
    largest_first: bool = True
    """How it is sorted at first."""
    from_width: int = 0
    """The width of the list from which on it is shown."""

    def wide(self, room: int) -> int:
        """Return its width in a list of that width, 0 where it shares."""
        return self.width if isinstance(self.width, int) else self.width(room)


class Listing(DataTable[Text], Generic[T]):
    """A table of things. It is given all of them again and again, in their usual order.

    :param columns: its columns.
    :param identify: what tells a thing from the others, for the cursor to stay with it.
    :param search: the text of a thing in which the filter is looked for.
    :param sort: the title of the column by which it is sorted at first; None for the usual order.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
        Binding("g,home", "scroll_top", show=False),
        Binding("G,end", "scroll_bottom", show=False),
    ]

    DEFAULT_CSS = """
    Listing {
        height: 1fr; background: $background; overflow-x: hidden; scrollbar-size-vertical: 1;
    }
    Listing:focus { background-tint: $foreground 0%; }
    """

    def __init__(
        self,
        columns: Sequence[Column[T]],
        *,
        identify: Callable[[T], Hashable],
        search: Callable[[T], str],
        sort: str | None = None,
    ) -> None:
        super().__init__(cursor_type="row", cell_padding=0, show_row_labels=False)
        self._columns = columns
        self._identify = identify
        self._search = search
        self._sort = next((c for c in columns if c.title == sort), None)
        self._down = self._sort is not None and self._sort.largest_first
        self._filter = ""
        self._all: Sequence[T] = ()
        self._shown: list[T] = []
        self._cells: list[list[Cell]] = []
        self._widths: list[tuple[Column[T], int]] = []

    @property
    def selected(self) -> T | None:
        """The thing under the cursor, if there is one."""
        return self._shown[self.cursor_row] if self.cursor_row < len(self._shown) else None

    @property
    def shown(self) -> Sequence[T]:
        """What is shown, in its order."""
        return self._shown

    @property
    def order(self) -> str:
        """How it is sorted, in words."""
        return "" if self._sort is None else f"{self._sort.title} {'▼' if self._down else '▲'}"

    @property
    def sought(self) -> str:
        """Only what has this text is shown, whether in capitals or not."""
        return self._filter

    @sought.setter
    def sought(self, text: str) -> None:
        self._filter = text
        self.show(self._all)

    def show(self, things: Sequence[T]) -> None:
        """Show these, in place of those before."""
        under = self.selected
        wanted = None if under is None else self._identify(under)
        self._all = things
        text = self._filter.casefold()
        shown = [x for x in things if text in self._search(x).casefold()] if text else [*things]
        if self._sort is not None and (key := self._sort.key) is not None:
            shown.sort(key=lambda thing: _sortable(key(thing)), reverse=self._down)
        self._shown = shown
        self._fill()
        row = next((n for n, x in enumerate(shown) if self._identify(x) == wanted), None)
        if row is not None and row != self.cursor_row:
            self.move_cursor(row=row)

    def _fill(self) -> None:
        if not self._widths:
            return
        cells = [[c.cell(thing, width) for c, width in self._widths] for thing in self._shown]
        if len(cells) != self.row_count:
            row, top = self.cursor_row, self.scroll_y
            self.clear()
            for line in cells:
                self.add_row(*(self._text(*at) for at in zip(line, self._widths, strict=True)))
            if row:
                self.move_cursor(row=min(row, len(cells) - 1), scroll=False)
                self.call_after_refresh(self.scroll_to, y=top, animate=False)
        else:
            for row_key, before, now in zip(self.rows, self._cells, cells, strict=True):
                for column_key, was, cell, at in zip(
                    self.columns, before, now, self._widths, strict=True
                ):
                    if was != cell:
                        self.update_cell(row_key, column_key, self._text(cell, at))
        self._cells = cells

    def on_resize(self, event: Resize) -> None:
        """Fit the columns into the new width."""
        widths = self._fit(event.size.width - SCROLLBAR)
        if widths != self._widths:
            self._widths = widths
            self._head()

    def _fit(self, room: int) -> list[tuple[Column[T], int]]:
        columns = [column for column in self._columns if column.from_width <= room]
        fixed = sum(column.wide(room) for column in columns) + len(columns) - 1
        sharing = sum(column.wide(room) == 0 for column in columns)
        share = max(4, (room - fixed) // max(1, sharing))
        return [(column, column.wide(room) or share) for column in columns]

    def _head(self) -> None:
        row, top = self.cursor_row, self.scroll_y
        self.clear(columns=True)
        for column, width in self._widths:
            style = "reverse" if column is self._sort else ""
            title = self._text(Cell(column.title, style), (column, width))
            self.add_column(title, width=width + 1, key=column.title)
        self._cells = []
        self._fill()
        if self._shown and row:
            self.move_cursor(row=min(row, len(self._shown) - 1), scroll=False)
            self.call_after_refresh(self.scroll_to, y=top, animate=False)

    @staticmethod
    def _text(cell: Cell, at: tuple[Column[T], int]) -> Text:
        column, width = at
        text = cell.text if column.left else cell.text.rjust(width)
        return Text(set_cell_size(text, width) + " ", style=cell.style, no_wrap=True, end="")

    def action_sort_next(self) -> None:
        """Sort by the next column."""
        able = [column for column, _ in self._widths if column.key is not None]
        if able:
            at = able.index(self._sort) if self._sort in able else -1
            self._sort_by(able[(at + 1) % len(able)])

    def action_sort_reverse(self) -> None:
        """Turn the order round."""
        self._down = not self._down
        self._head()
        self.show(self._all)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column that was clicked, or turn its order round."""
        event.stop()
        column = self._widths[event.column_index][0]
        if column is self._sort:
            self.action_sort_reverse()
        elif column.key is not None:
            self._sort_by(column)

    def _sort_by(self, column: Column[T]) -> None:
        self._sort, self._down = column, column.largest_first
        self._head()
        self.show(self._all)


def shorten(text: str, width: int) -> str:
    """Return a name that fits: of a long one the beginning and the end."""
    text = printable(text)
    if cell_len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{set_cell_size(text, width - 1 - end).rstrip()}…{text[-end:] if end else ''}"


def cut(text: str | None, width: int) -> str:
    """Return the beginning of a text, in one line."""
    text = printable(" ".join((text or "").split()))
    return text if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 1))}…"


def _sortable(value: Any) -> tuple[bool, Any]:
    return value is not None, value
