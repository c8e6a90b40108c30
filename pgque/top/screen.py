"""What the screens with lists have in common: pages, a filter, a line for what is to be said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Input, Static, TabbedContent, TabPane, Tabs

from pgque.errors import PgqueError
from pgque.top.table import Listing
from pgque.watching.browse import Browser
from pgque.watching.readable import printable

if TYPE_CHECKING:
    from pgque.top.app import TopApp

T = TypeVar("T")

SAID_FOR: Final = 10.0


class Page(Generic[T]):
    """A list on a screen.

    :param title: what its tab says.
    :param listing: the list.
    :param empty: what is said where it has nothing to show.
    :param ask: how it is filled; None where the samples fill it.
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
    def words(self) -> str:
        """What is said where the list is empty."""
        if not self.loaded:
            return "Asking the database …"
        if self.listing.sought:
            return f"Nothing here has {printable(self.listing.sought)!r} in it. Escape shows all."
        return self._empty


class Watching(Screen[None]):
    """A screen that shows the newest sample, and lists on pages."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="esc"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s,greater_than_sign", "sort", "Sort"),
        Binding("S", "reverse", "Turn round", show=False),
        Binding("less_than_sign", "reverse", show=False),
        Binding("tab", "next_page(1)", "Next page", show=False),
        Binding("shift+tab", "next_page(-1)", show=False),
        *(Binding(str(n), f"page({n})", show=False) for n in range(1, 6)),
    ]

    DEFAULT_CSS = """
    Watching #lost { display: none; height: 1; background: $error; color: $text; text-style: bold; }
    Watching #head { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    Watching #figures { height: auto; text-wrap: nowrap; text-overflow: ellipsis; }
    Watching TabbedContent { height: 1fr; }
    Watching ContentSwitcher { height: 1fr; }
    Watching TabPane { padding: 0; height: 1fr; }
    Watching .empty { display: none; height: 1fr; padding: 1 2; }
    Watching .bare .empty { display: block; }
    Watching .bare Listing { height: 1; }
    Watching #under { height: 1; color: $text-muted; }
    Watching #said { display: none; height: auto; max-height: 3; }
    Watching #filter { display: none; height: 1; border: none; padding: 0 1; }
    """

    class Loaded(Message):
        """A list came from the database, or None: it could not be asked."""

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
    def top(self) -> TopApp:
        """The application."""
        return cast("TopApp", self.app)

    @property
    def page(self) -> Page[Any]:
        """The page that is shown."""
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
        yield Input(placeholder="only what has this in it", id="filter", compact=True)
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Leave the keys to the lists."""
        self.query_one(Tabs).can_focus = False
        self.page.listing.focus()

    def on_screen_resume(self) -> None:
        """Show what has come while another screen was in front."""
        self.show()

    def on_resize(self) -> None:
        """Draw the figures anew, whose trends are as wide as the screen."""
        self.show()

    def show(self) -> None:
        """Show the newest sample, and ask for the list of the page."""
        self.query_one("#head", Static).update(self.top.head())
        self.show_lost()
        self.query_one("#figures", Static).update(self.figures())
        self.load()

    def show_lost(self) -> None:
        """Show whether the connection is gone."""
        lost = self.query_one("#lost", Static)
        lost.display = bool(self.top.lost)
        lost.update(Text(self.top.lost, no_wrap=True, overflow="ellipsis"))

    def figures(self) -> Text:
        """Return the lines above the pages."""
        raise NotImplementedError

    def fill(self) -> None:
        """Fill the list that is shown from the newest sample."""

    def open(self, thing: Any) -> None:
        """Show one line of the list by itself."""

    def load(self) -> None:
        """Fill the page that is shown; ask for its list, unless that is being done."""
        page = self.page
        if page.ask is None:
            self.fill()
        elif page not in self._loading:
            self._ask(page)
        self.say_what_is_shown()

    def outdate(self) -> None:
        """Ask again for what is being asked for now, when it has come: it may be of before."""
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

    def on_watching_loaded(self, event: Loaded) -> None:
        """Show a list that has come; ask again where something changed meanwhile."""
        page = event.page
        self._loading.discard(page)
        if event.rows is not None:
            page.loaded = True
            page.listing.show(event.rows)
            self.say_what_is_shown()
        if page in self._outdated:
            self._outdated.discard(page)
            self._ask(page)

    def say_what_is_shown(self) -> None:
        """Say how the list is sorted and filtered, or why it is empty."""
        page = self.page
        listing = page.listing
        pane = self.query_one(f"#{self._active}", TabPane)
        pane.set_class(not listing.shown, "bare")
        pane.query_one(".empty", Static).update(Text(page.words))
        parts = [f"{len(listing.shown):,} lines"]
        if listing.order:
            parts.append(f"by {listing.order}")
        if listing.sought:
            parts.append(f"with {printable(listing.sought)!r}, esc shows all")
        self.query_one("#under", Static).update(Text(" " + ", ".join(parts), no_wrap=True))

    def say(self, text: str, *, error: bool = False) -> None:
        """Say something for `SAID_FOR` seconds."""
        said = self.query_one("#said", Static)
        said.update(Text(f" {'!! ' if error else ''}{text}", style="bold red" if error else "bold"))
        said.display = True
        if self._silence is not None:
            self._silence.stop()
        self._silence = self.set_timer(SAID_FOR, lambda: setattr(said, "display", False))

    def on_tabbed_content_tab_activated(self) -> None:
        """Give a page that comes to the front the keys, and its list."""
        # Somebody who types fast may have begun to filter it already.
        if self.focused is not self.query_one("#filter"):
            self.set_focus(self.page.listing)
        self.load()

    def on_listing_opened(self, event: Listing.Opened) -> None:
        """Open what is under the cursor."""
        self.open(event.thing)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed."""
        self.page.listing.sought = event.value
        self.say_what_is_shown()

    def on_input_submitted(self) -> None:
        """Keep the filter, and give the keys back."""
        self.set_focus(self.page.listing)
        self.query_one("#filter").display = False

    def action_filter(self) -> None:
        """Begin to type a filter."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.value = self.page.listing.sought
        self.set_focus(field)  # now: the next key is for it

    def action_back(self) -> None:
        """End the filter, or leave the screen."""
        field = self.query_one("#filter", Input)
        if field.display or self.page.listing.sought:
            field.display = False
            self.page.listing.sought = field.value = ""
            self.say_what_is_shown()
            self.page.listing.focus()
        elif len(self.app.screen_stack) > 2:  # textual's own, and the first of ours
            self.dismiss()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self.page.listing.action_sort_next()
        self.say_what_is_shown()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.page.listing.action_sort_reverse()
        self.say_what_is_shown()

    def action_page(self, number: int) -> None:
        """Show a page."""
        if number <= len(self.pages):
            self.query_one(TabbedContent).active = f"page{number}"
            self.set_focus(self.page.listing)

    def action_next_page(self, step: int) -> None:
        """Show the page beside this one."""
        at = self.pages.index(self.page)
        self.action_page((at + step) % len(self.pages) + 1)
