"""The screen of one queue: its consumers, messages, retries, dead letters and settings."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from pgque.top import columns, facts
from pgque.top.consumer import ConsumerScreen
from pgque.top.history import ConsumerRow
from pgque.top.letters import LettersScreen, letters_page, retries_page
from pgque.top.message import MessageScreen
from pgque.top.screen import Page
from pgque.top.summary import of_queue
from pgque.top.table import Listing
from pgque.watching.browse import PAGE_AT_MOST, Letter, Retry, Sent
from pgque.watching.readable import printable


class QueueScreen(LettersScreen):
    """One queue.

    :param queue: its name.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "replay", "Replay"),
        Binding("R", "replay_all", "All"),
        Binding("x", "purge", "Purge"),
    ]

    def __init__(self, queue: str) -> None:
        self._consumers = Listing[ConsumerRow](
            columns.CONSUMERS_OF_QUEUE,
            identify=lambda row: row.key,
            search=lambda row: f"{row.now.consumer} {row.state.text}",
            sort="STATE",
        )
        events = Listing[Sent](
            columns.messages(lambda: self.top.now),
            identify=lambda event: event.place,
            search=lambda event: f"{event.id} {event.type} {event.key} {event.payload}",
        )
        settings = Listing[tuple[str, object]](
            columns.SETTINGS, identify=lambda line: line[0], search=lambda line: line[0]
        )
        name = printable(queue)
        no_consumer = f"No consumers. Subscribe one:\n\n    pgque consumer subscribe {name} NAME"
        super().__init__(
            queue,
            None,
            [
                Page("Consumers", self._consumers, no_consumer),
                Page(
                    "Messages",
                    events,
                    "The log holds no messages.",
                    lambda b: b.messages(queue, limit=PAGE_AT_MOST).rows,
                ),
                retries_page(queue, None, lambda: self.top.now),
                letters_page(queue, None, lambda: self.top.now),
                Page(
                    "Settings",
                    settings,
                    "The queue was dropped.",
                    lambda b: facts.of_settings(b, queue),
                ),
            ],
        )

    def figures(self) -> Text:
        """Return the queue's figures."""
        row = self.top.history.queues.get(self.queue)
        if row is None:
            name = printable(self.queue)
            return Text(f"The queue {name} was dropped. Press Escape to go back.", "bold")
        return of_queue(row, self.size)

    def fill(self) -> None:
        """Show the consumers of the newest sample."""
        consumers = self.top.history.consumers.values()
        self._consumers.show([row for row in consumers if row.now.queue == self.queue])

    def open(self, thing: Any) -> None:
        """Open the screen of a consumer, an event, a retry or a dead letter."""
        if isinstance(thing, ConsumerRow):
            self.app.push_screen(ConsumerScreen(*thing.key))
        elif isinstance(thing, Sent):
            queue = self.queue
            self.app.push_screen(MessageScreen(lambda b: facts.of_message(b, queue, thing.place)))
        elif isinstance(thing, Letter | Retry):
            self.open_letter_or_retry(thing)
