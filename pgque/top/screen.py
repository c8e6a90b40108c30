"""The base of screens with lists: pages, a filter and a line for messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Input, Static, TabbedContent, TabPane, Tabs

from pgque.errors import PgqueError
from pgque.top.base import BaseApp
from pgque.top.table import Listing
from pgque.watching.browse import Browser
from pgque.watching.readable import printable

T = TypeVar("T")

SAID_FOR: Final = 10.0
"""Seconds for which a message stays on the screen."""


class Page(Generic[T]):
    """A list on a screen.

    :param title: the title of its tab.
    :param listing: the list.
    :param empty: the text shown if the list is empty.
    :param ask: the query that fills it; None if samples fill it.
    """

    def __init__(
        self,
        title: str,
        listing: Listing[T],
        empty: str,
        ask: Callable[[Browser], Sequence[T]] | None = None,
    ) -> None:
        self.title = title
        self.listing = listing
        self.ask = ask
        self.loaded = ask is None
        self._empty = empty

    @property
    def empty_text(self) -> str:
        """The text to show if the list is empty."""
        if not self.loaded:
            return "Loading …"
        if self.listing.filter_text:
            return (
                f"No match for {printable(self.listing.filter_text)!r}. Press Escape to show all."
            )
        return self._empty


class ListScreen(Screen[None]):
    """A screen that shows the newest sample and has lists on pages."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="esc"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s,greater_than_sign", "sort", "Sort"),
        Binding("S", "reverse", "Reverse", show=False),
        Binding("less_than_sign", "reverse", show=False),
        Binding("tab", "next_page(1)", "Next page", show=False),
        Binding("shift+tab", "next_page(-1)", show=False),
        *(Binding(str(n), f"page({n})", show=False) for n in range(1, 6)),
    ]

    DEFAULT_CSS = """
    ListScreen #lost { display: none; height: 1; background: $error; color: $text; }
    ListScreen #lost { text-style: bold; }
    ListScreen #head { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    ListScreen #figures { height: auto; text-wrap: nowrap; text-overflow: ellipsis; }
    ListScreen TabbedContent { height: 1fr; }
    ListScreen ContentSwitcher { height: 1fr; }
    ListScreen TabPane { padding: 0; height: 1fr; }
    ListScreen .empty { display: none; height: 1fr; padding: 1 2; }
    ListScreen .bare .empty { display: block; }
    ListScreen .bare Listing { height: 1; }
    ListScreen #under { height: 1; color: $text-muted; }
    ListScreen #said { display: none; height: auto; max-height: 3; }
    ListScreen #filter { display: none; height: 1; border: none; padding: 0 1; }
    """

    class Loaded(Message):
        """A query returned the rows of a list, or None after an error."""

        def __init__(self, page: Page[Any], rows: Sequence[Any] | None) -> None:
            super().__init__()
            self.page = page
            self.rows = rows

    def __init__(self, pages: Sequence[Page[Any]]) -> None:
        super().__init__()
        self.pages = pages
        self._loading: set[Page[Any]] = set()
        self._outdated: set[Page[Any]] = set()
        self._silence: Timer | None = None

    @property
    def top(self) -> BaseApp:
        """The application."""
        return cast(BaseApp, self.app)

    @property
    def page(self) -> Page[Any]:
        """The page in front."""
        return self.pages[int(self._active.removeprefix("page")) - 1]

    @property
    def _active(self) -> str:
        return self.query_one(TabbedContent).active or "page1"

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Static(id="lost")
        yield Static(id="head")
        yield Static(id="figures")
        with TabbedContent(initial="page1"):
            for number, page in enumerate(self.pages, 1):
                with TabPane(f"{number} {page.title}", id=f"page{number}"):
                    yield page.listing
                    yield Static(classes="empty")
        yield Static(id="under")
        yield Static(id="said")
        yield Input(placeholder="show only lines that contain this", id="filter", compact=True)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Give the focus to the list, not to the tabs."""
        self.query_one(Tabs).can_focus = False
        self.page.listing.focus()

    def on_screen_resume(self) -> None:
        """Show the sample taken while another screen was in front."""
        self.show()

    def on_resize(self) -> None:
        """Redraw the figures: their trends are as wide as the screen."""
        self.show()

    def show(self) -> None:
        """Show the newest sample, and query the list of the page."""
        self.query_one("#head", Static).update(self.top.head())
        self.show_lost()
        self.query_one("#figures", Static).update(self.figures())
        self.load()

    def show_lost(self) -> None:
        """Show or hide the line that says the connection is lost."""
        lost = self.query_one("#lost", Static)
        lost.display = bool(self.top.lost)
        lost.update(Text(self.top.lost, no_wrap=True, overflow="ellipsis"))

    def figures(self) -> Text:
        """Return the lines above the pages."""
        raise NotImplementedError

    def fill(self) -> None:
        """Fill the visible list from the newest sample."""

    def open(self, thing: Any) -> None:
        """Open the screen of one line of the list."""

    def load(self) -> None:
        """Fill the page in front. Query its list, unless a query is running."""
        page = self.page
        if page.ask is None:
            self.fill()
        elif page not in self._loading:
            self._ask(page)
        self.show_list_status()

    def mark_outdated(self) -> None:
        """Repeat the running queries once they end: their rows may predate a change."""
        self._outdated |= self._loading

    def _ask(self, page: Page[Any]) -> None:
        if page.ask is not None:
            self._loading.add(page)
            self._load(page, page.ask)

    @work(thread=True, group="lists")
    def _load(self, page: Page[Any], ask: Callable[[Browser], Sequence[Any]]) -> None:
        rows: Sequence[Any] | None = None
        try:
            rows = self.top.source.browse(ask)
        except PgqueError as error:
            self.top.report(error)
        self.post_message(self.Loaded(page, rows))

    def on_list_screen_loaded(self, event: Loaded) -> None:
        """Show the rows of a query; query again if something has changed since."""
        page = event.page
        self._loading.discard(page)
        if event.rows is not None:
            page.loaded = True
            page.listing.show(event.rows)
            self.show_list_status()
        if page in self._outdated:
            self._outdated.discard(page)
            self._ask(page)

    def show_list_status(self) -> None:
        """Show how the list is sorted and filtered, or why it is empty."""
        page = self.page
        listing = page.listing
        pane = self.query_one(f"#{self._active}", TabPane)
        pane.set_class(not listing.shown, "bare")
        pane.query_one(".empty", Static).update(Text(page.empty_text))
        parts = [f"{len(listing.shown):,} lines"]
        if listing.order:
            parts.append(f"by {listing.order}")
        if listing.filter_text:
            parts.append(f"matching {printable(listing.filter_text)!r}, esc shows all")
        self.query_one("#under", Static).update(Text(" " + ", ".join(parts), no_wrap=True))

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a message for `SAID_FOR` seconds."""
        said = self.query_one("#said", Static)
        said.update(Text(f" {'!! ' if error else ''}{text}", style="bold red" if error else "bold"))
        said.display = True
        if self._silence is not None:
            self._silence.stop()
        self._silence = self.set_timer(SAID_FOR, lambda: setattr(said, "display", False))

    def on_tabbed_content_tab_activated(self) -> None:
        """Focus and load the list of a page that comes to the front."""
        # A user who types fast may have started to filter it already.
        if self.focused is not self.query_one("#filter"):
            self.set_focus(self.page.listing)
        self.load()

    def on_listing_opened(self, event: Listing.Opened) -> None:
        """Open the line under the cursor."""
        self.open(event.thing)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the user types."""
        self.page.listing.filter_text = event.value
        self.show_list_status()

    def on_input_submitted(self) -> None:
        """Keep the filter and return the focus to the list."""
        self.set_focus(self.page.listing)
        self.query_one("#filter").display = False

    def action_filter(self) -> None:
        """Open the filter field."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.value = self.page.listing.filter_text
        self.set_focus(field)  # at once, so that the next key goes to the field

    def action_back(self) -> None:
        """Clear the filter, or leave the screen."""
        field = self.query_one("#filter", Input)
        if field.display or self.page.listing.filter_text:
            field.display = False
            self.page.listing.filter_text = field.value = ""
            self.show_list_status()
            self.page.listing.focus()
        elif len(self.app.screen_stack) > 2:  # Textual's default screen and our first one
            self.dismiss()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self.page.listing.action_sort_next()
        self.show_list_status()

    def action_reverse(self) -> None:
        """Reverse the order."""
        self.page.listing.action_sort_reverse()
        self.show_list_status()

    def action_page(self, number: int) -> None:
        """Show a page."""
        if number <= len(self.pages):
            self.query_one(TabbedContent).active = f"page{number}"
            self.set_focus(self.page.listing)

    def action_next_page(self, step: int) -> None:
        """Show the next or previous page."""
        at = self.pages.index(self.page)
        self.action_page((at + step) % len(self.pages) + 1)
