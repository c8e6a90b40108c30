"""One consumer of a queue: where it stands, its retries and dead letters."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from pgque.top.letters import Letters, letters_page, retries_page
from pgque.top.summary import of_consumer
from pgque.watching.readable import printable


class ConsumerScreen(Letters):
    """One consumer.

    :param queue: the queue's name.
    :param consumer: its own.
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
        """Return what is known of the consumer."""
        assert self.consumer is not None
        row = self.top.history.consumers.get((self.queue, self.consumer))
        if row is None:
            name = printable(self.consumer)
            return Text(f"{name} is no longer subscribed. Escape leads back.", "bold")
        return of_consumer(row, self.size)

    def open(self, thing: Any) -> None:
        """Show a retry or a dead letter by itself."""
        self.open_letter_or_retry(thing)
