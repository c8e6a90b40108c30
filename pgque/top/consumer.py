"""The screen of one consumer: its position, its retries and its dead letters."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from pgque.top.letters import LettersScreen, letters_page, retries_page
from pgque.top.summary import of_consumer
from pgque.watching.readable import printable


class ConsumerScreen(LettersScreen):
    """One consumer.

    :param queue: the queue's name.
    :param consumer: the consumer's name.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "replay", "Replay")]

    def __init__(self, queue: str, consumer: str) -> None:
        super().__init__(
            queue,
            consumer,
            [
                retries_page(queue, consumer, lambda: self.top.now),
                letters_page(queue, consumer, lambda: self.top.now),
            ],
        )

    def figures(self) -> Text:
        """Return the consumer's figures."""
        assert self.consumer is not None
        row = self.top.history.consumers.get((self.queue, self.consumer))
        if row is None:
            name = printable(self.consumer)
            return Text(f"{name} is no longer subscribed. Press Escape to go back.", "bold")
        return of_consumer(row, self.size)

    def open(self, thing: Any) -> None:
        """Open the screen of a retry or a dead letter."""
        self.open_letter_or_retry(thing)
