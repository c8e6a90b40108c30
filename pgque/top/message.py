"""The screen of one event, retry or dead letter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import ClassVar, Final, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static

from pgque.errors import PgqueError
from pgque.top.base import BaseApp
from pgque.top.facts import Details
from pgque.watching.browse import Browser
from pgque.watching.readable import printable, readable

LONGEST: Final = 100_000
"""The largest number of characters shown of a payload."""

DEEPEST: Final = 40
"""The deepest level that is indented; beyond it there would be more space than text."""

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+')
_BEGINS: Final = frozenset("[{")
_ENDS: Final = frozenset("]}")


class MessageScreen(Screen[None]):
    """Shows an event in full.

    :param ask: reads it; returns None if it no longer exists.
    :param replay: for a dead letter, asks whether to replay it.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Back", key_display="esc"),
        Binding("r", "replay", "Replay"),
    ]

    DEFAULT_CSS = """
    MessageScreen VerticalScroll { padding: 0 1; scrollbar-size-vertical: 1; }
    """

    class Found(Message):
        """The query returned an event, nothing, or an error."""

        def __init__(self, whole: Details | PgqueError | None) -> None:
            super().__init__()
            self.whole = whole

    def __init__(
        self,
        ask: Callable[[Browser], Details | None],
        replay: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._ask = ask
        self._replay = replay

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll():
            yield Static("Loading …", id="whole")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Start the query."""
        self._load()

    @work(thread=True, group="message")
    def _load(self) -> None:
        top = cast(BaseApp, self.app)
        try:
            self.post_message(self.Found(top.source.browse(self._ask)))
        except PgqueError as error:
            self.post_message(self.Found(error))

    def on_message_screen_found(self, event: Found) -> None:
        """Show the result of the query."""
        if isinstance(event.whole, PgqueError):
            text = Text(f"!! {event.whole}".partition("\n")[0], "bold red")
        elif event.whole is None:
            text = Text("It no longer exists. Press Escape to go back.", "bold")
        else:
            text = described(event.whole)
        self.query_one("#whole", Static).update(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Enable the replay key only for dead letters."""
        return action != "replay" or self._replay is not None

    def action_replay(self) -> None:
        """Close the screen and ask whether to replay it."""
        replay = self._replay
        if replay is not None:
            self.dismiss()
            self.app.call_later(replay)


def described(whole: Details) -> Text:
    """Return an event's details, one per line, followed by its payload with JSON indented."""
    width = max(len(printable(name)) for name, _ in whole.facts)
    text = Text()
    for name, value in whole.facts:
        # An id is not a quantity: show it without separators.
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
    """Return JSON with line breaks and indentation, any other text unchanged.

    Only the space between tokens changes. A payload longer than `LONGEST` is cut, not indented.

    :param length: the full length, if ``payload`` is only the beginning.
    """
    length = len(payload) if length is None else length
    if length > LONGEST:
        return f"{payload[:LONGEST]}\n… and {length - LONGEST:,} more characters"
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
