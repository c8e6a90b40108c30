"""Questions, and the help."""

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
  q quits        ? this help      esc back, or ends the filter
  ⏎ opens        / filters        s sorts by the next column
  S turns the order round         1 to 5, tab: the pages
  space pauses   - slower         + faster
  ↑ ↓ j k g G    move             a click on a column sorts, too
  On dead letters: r sends one again, R all, x deletes old ones

COLUMNS
  IN/S, OUT/S    events sent, and done by all consumers, a second
  PENDING        events before the consumer that has most of them
  WAITING        for how long the oldest event has waited
  HELD           batches in flight: those that members of groups
                 hold. What a lone consumer handles in its own
                 transaction nobody else can see.
  RETRY, DEAD    events that wait for a retry, and dead letters
  TICKED         the age of the newest tick; an idle queue has
                 no new ones
  SEEN           since the consumer last moved on

STATES
  ok             !  behind: the oldest has been ready for 1 min
  no reader      !  paused: pgque queue resume NAME
  !! stuck       it has been ready for ten minutes
  !! silent      no sign of life for ten minutes, with something
                 to do: is its process running?
  !! crash loop  one member after the other dies with the same
                 piece: pgque doctor shows its messages
  !! no tick     events have waited 10 s for a tick: does a
                 pgque ticker run?\
"""


class Confirm(ModalScreen[bool]):
    """A question that is answered by yes or no.

    :param question: what is asked.
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
        """Make the widgets; no has the keys at first."""
        with Vertical():
            yield Static(Text(self._question))
            with Horizontal():
                yield Button("No (n)", id="no")
                yield Button("Yes (y)", id="yes", variant="error")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take a button as the answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Take a key as the answer."""
        self.dismiss(yes)


class AskDays(ModalScreen[float | None]):
    """Asks how old dead letters have to be; None where it is left."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)")]

    DEFAULT_CSS = f"""
    AskDays {{ {_BOX} }}
    """

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with Vertical():
            yield Static("Delete dead letters that are older than so many days (0: all):\n")
            yield Input("30", type="number", id="days")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the number."""
        try:
            days = float(event.value)
        except ValueError:
            return
        if days >= 0:
            self.dismiss(days)


class Help(ModalScreen[None]):
    """What the keys do and what the words mean."""

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
