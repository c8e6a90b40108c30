"""The first screen: all queues and all consumers."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from pgque.top.columns import CONSUMERS, QUEUES
from pgque.top.consumer import ConsumerScreen
from pgque.top.history import ConsumerRow, QueueRow
from pgque.top.queue import QueueScreen
from pgque.top.screen import ListScreen, Page
from pgque.top.summary import of_all
from pgque.top.table import Listing


class OverviewScreen(ListScreen):
    """All queues and consumers, worst state first."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", show=False)]

    def __init__(self) -> None:
        self._queues = Listing[QueueRow](
            QUEUES,
            identify=lambda row: row.now.queue,
            search=lambda row: f"{row.now.queue} {row.state.text}",
            sort="STATE",
        )
        self._consumers = Listing[ConsumerRow](
            CONSUMERS,
            identify=lambda row: row.key,
            search=lambda row: f"{row.now.consumer} {row.now.queue} {row.state.text}",
            sort="STATE",
        )
        no_queue = "No queues yet. Create one:\n\n    pgque queue create NAME"
        no_consumer = "No consumers. Subscribe one:\n\n    pgque consumer subscribe QUEUE NAME"
        super().__init__(
            [
                Page("Queues", self._queues, no_queue),
                Page("Consumers", self._consumers, no_consumer),
            ]
        )

    def figures(self) -> Text:
        """Return the totals of all queues."""
        return of_all(self.top.history, self.size)

    def fill(self) -> None:
        """Show the queues and consumers of the newest sample."""
        history = self.top.history
        if self.page.listing is self._queues:
            self._queues.show(list(history.queues.values()))
        else:
            self._consumers.show(list(history.consumers.values()))

    def open(self, thing: Any) -> None:
        """Open the screen of a queue or a consumer."""
        if isinstance(thing, QueueRow):
            self.app.push_screen(QueueScreen(thing.now.queue))
        else:
            self.app.push_screen(ConsumerScreen(*thing.key))
