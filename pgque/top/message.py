"""One event, retry or dead letter, whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from pgque.errors import PgqueError
from pgque.top.facts import Whole
from pgque.watching.browse import Browser
from pgque.watching.readable import printable, readable

if TYPE_CHECKING:
    from pgque.top.app import TopApp

LONGEST: Final = 100_000
"""Characters of a payload that are shown."""

DEEPEST: Final = 40
"""Further in nothing is indented more: there would be more space than text."""

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+')
_BEGINS: Final = frozenset("[{")
_ENDS: Final = frozenset("]}")


class MessageScreen(Screen[None]):
    """Everything that is known of an event.

    :param ask: how it is found; None says that it is gone.
    :param replay: asks whether to send it again, where it is a dead letter.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back", key_display="esc"),
        Binding("r", "replay", "Replay"),
    ]

    DEFAULT_CSS = """
    MessageScreen VerticalScroll { padding: 0 1; scrollbar-size-vertical: 1; }
    """

    class Found(Message):
        """It came from the database, or the reason why it did not."""

        def __init__(self, whole: Whole | PgqueError | None) -> None:
            super().__init__()
            self.whole = whole

    def __init__(
        self,
        ask: Callable[[Browser], Whole | None],
        replay: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._ask = ask
        self._replay = replay

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll():
            yield Static("Asking the database …", id="whole")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Ask for it."""
        self._load()

    @work(thread=True, group="message")
    def _load(self) -> None:
        top = cast("TopApp", self.app)
        try:
            self.post_message(self.Found(top.source.browse(self._ask)))
        except PgqueError as error:
            self.post_message(self.Found(error))

    def on_message_screen_found(self, event: Found) -> None:
        """Show it."""
        if isinstance(event.whole, PgqueError):
            text = Text(f"!! {event.whole}".partition("\n")[0], "bold red")
        elif event.whole is None:
            text = Text("It is not there any more. Escape leads back.", "bold")
        else:
            text = described(event.whole)
        self.query_one("#whole", Static).update(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to replay dead letters alone."""
        return action != "replay" or self._replay is not None

    def action_replay(self) -> None:
        """Leave, and ask whether to send it again."""
        replay = self._replay
        if replay is not None:
            self.dismiss()
            self.app.call_later(replay)


def described(whole: Whole) -> Text:
    """Return an event's facts, a line each, and its payload, JSON with a line for each part."""
    width = max(len(printable(name)) for name, _ in whole.facts)
    text = Text()
    for name, value in whole.facts:
        # Ids are no quantities.
        words = str(value) if isinstance(value, int) else readable(value)
        text.append(f"{printable(name):<{width}}  ", "dim")
        text.append(f"{words}\n")
    text.append("\n")
    if whole.payload is None:
        text.append("no payload", "dim")
        return text
    for line in laid_out(whole.payload, whole.length).splitlines():
        text.append(f"{printable(line)}\n")
    return text


def laid_out(payload: str, length: int | None = None) -> str:
    """Return JSON with a line for each part, anything else as it is; the beginning, if it is long.

    Nothing but the space between its parts is changed.

    :param length: how long it is where only its beginning is given.
    """
    length = len(payload) if length is None else length
    if length > LONGEST:
        return f"{payload[:LONGEST]}\n… and {length - LONGEST:,} characters more"
    try:
        json.loads(payload)
    except (ValueError, RecursionError):
        return payload
    parts: list[str] = []
    depth, before = 0, ""
    for part in _TOKEN.findall(payload):
        if part in _ENDS:
            depth -= 1
        if (
            (before in _BEGINS and part not in _ENDS)
            or before == ","
            or (part in _ENDS and before not in _BEGINS)
        ):
            parts.append("\n" + "  " * min(depth, DEEPEST))
        parts.append(": " if part == ":" else part)
        if part in _BEGINS:
            depth += 1
        before = part
    return "".join(parts)
