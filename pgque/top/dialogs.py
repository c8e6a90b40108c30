"""Dialogs: questions and the help."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

_BOX = """
    align: center middle;
    & > * {
        width: 64; max-width: 100%; height: auto; max-height: 100%;
        padding: 1 2; border: round $primary; background: $surface;
    }
"""

HELP: Final = """\
KEYS
  q quit         ? help           esc back, or clear the filter
  ⏎ open         / filter         s sort by the next column
  S reverse the order             1 to 5, tab: switch pages
  space pause    - slower         + faster
  ↑ ↓ j k g G    move             click a column title to sort
  Dead letters: r replay one, R replay all, x delete old ones

COLUMNS
  IN/S, OUT/S    events sent per second, and events handled per
                 second by all consumers
  PENDING        pending events of the consumer with the most
  WAITING        age of the oldest pending event
  HELD           batches held by members of groups. A batch that
                 a normal consumer handles inside its transaction
                 is not visible to other sessions.
  RETRY, DEAD    events waiting for a retry, and dead letters
  TICKED         age of the newest tick; an idle queue gets no
                 new ticks
  SEEN           time since the consumer was last active

STATES
  ok
  no reader      the queue has no consumers
  !  paused      resume it with: pgque queue resume NAME
  !  behind      the oldest event has been ready for 1 minute
  !! stuck       the oldest event has been ready for 10 minutes
  !! silent      no activity for 10 minutes, with work to do:
                 is its process running?
  !! crash loop  one member after another dies with the same
                 batch: pgque doctor shows its messages
  !! no tick     events have waited 10 s for a tick: is a
                 pgque ticker running?\
"""


class Confirm(ModalScreen[bool]):
    """A yes or no question.

    :param question: its text.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)"),
        Binding("n,escape", "answer(False)"),
        Binding("left,right", "app.focus_next"),
    ]

    DEFAULT_CSS = f"""
    Confirm {{ {_BOX} }}
    Confirm Horizontal {{ height: auto; margin-top: 1; align-horizontal: center; }}
    Confirm Button {{ margin: 0 1; }}
    """

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """Make the widgets. The focus starts on No."""
        with Vertical():
            yield Static(Text(self._question))
            with Horizontal():
                yield Button("No (n)", id="no")
                yield Button("Yes (y)", id="yes", variant="error")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Close with the answer of a button."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Close with the answer of a key."""
        self.dismiss(yes)


class AskDays(ModalScreen[float | None]):
    """Asks for the age of the dead letters to delete. The result is None if cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)")]

    DEFAULT_CSS = f"""
    AskDays {{ {_BOX} }}
    """

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with Vertical():
            yield Static("Delete dead letters older than this many days (0: all):\n")
            yield Input("30", type="number", id="days")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with the number, if it is valid."""
        try:
            days = float(event.value)
        except ValueError:
            return
        if days >= 0:
            self.dismiss(days)


class Help(ModalScreen[None]):
    """Explains keys, columns and states."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss"),
    ]

    DEFAULT_CSS = f"""
    Help {{ {_BOX} }}
    Help > * {{ width: 76; scrollbar-size-vertical: 1; }}
    """

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll():
            yield Static(Text(HELP))
