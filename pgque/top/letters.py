"""Screens with retries and dead letters, which can be sent again or deleted after a yes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pgque.info import ReplayResult
from pgque.top import columns, facts
from pgque.top.dialogs import AskDays, Confirm
from pgque.top.message import MessageScreen
from pgque.top.screen import Page, Watching
from pgque.top.table import Listing
from pgque.watching.browse import LOOKED_AT, PAGE_AT_MOST, Letter, Retry, Wanted
from pgque.watching.readable import printable
from pgque.wire.calls import SECONDS_A_DAY

if TYPE_CHECKING:
    from pgque.top.app import TopApp


def retries_page(queue: str, consumer: str | None, now: Callable[[], float]) -> Page[Retry]:
    """Return a page with the retries of a queue, or of one of its consumers."""
    listing = Listing[Retry](
        columns.retries(now),
        identify=lambda retry: retry.place,
        search=lambda retry: f"{retry.id} {retry.consumer} {retry.type} {retry.payload}",
    )
    wanted = Wanted(consumer=consumer)
    return Page(
        "Retries",
        listing,
        "Nothing waits for a retry."
        if consumer is None
        else f"None of the next {LOOKED_AT:,} retries of the queue is for this consumer.",
        lambda b: b.retries(queue, wanted, limit=PAGE_AT_MOST).rows,
    )


def letters_page(queue: str, consumer: str | None, now: Callable[[], float]) -> Page[Letter]:
    """Return a page with the dead letters of a queue, or of one of its consumers."""
    listing = Listing[Letter](
        columns.letters(now),
        identify=lambda letter: letter.place,
        search=lambda x: f"{x.letter} {x.consumer} {x.type} {x.reason} {x.payload}",
    )
    wanted = Wanted(consumer=consumer)
    return Page(
        "Dead letters",
        listing,
        "There are no dead letters."
        if consumer is None
        else f"None of the newest {LOOKED_AT:,} dead letters of the queue is of this consumer.",
        lambda b: b.dead_letters(queue, wanted, limit=PAGE_AT_MOST).rows,
    )


class Letters(Watching):
    """A screen with a page of dead letters.

    :param queue: the queue's name.
    :param consumer: the consumer's, where the screen is one's.
    :param pages: its pages.
    """

    def __init__(self, queue: str, consumer: str | None, pages: Sequence[Page[Any]]) -> None:
        super().__init__(pages)
        self.queue = queue
        self.consumer = consumer

    def open_letter_or_retry(self, thing: Letter | Retry) -> None:
        """Show a dead letter, which can be replayed there, or a retry."""
        if isinstance(thing, Retry):
            self.app.push_screen(MessageScreen(lambda b: facts.of_retry(b, thing.place)))
        else:
            number = thing.letter
            screen = MessageScreen(
                lambda b: facts.of_letter(b, number),
                lambda: ask_to_replay(self.top, self.queue, number),
            )
            self.app.push_screen(screen)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the keys for dead letters where these are shown."""
        if action in ("replay", "replay_all", "purge"):
            return self.is_mounted and self.page.title == "Dead letters"
        return True

    def on_tabbed_content_tab_activated(self) -> None:
        """Offer the keys of the page."""
        super().on_tabbed_content_tab_activated()
        self.refresh_bindings()

    def action_replay(self) -> None:
        """Send the dead letter under the cursor again."""
        letter = self.page.listing.selected
        if isinstance(letter, Letter):
            ask_to_replay(self.top, self.queue, letter.letter)

    def action_replay_all(self) -> None:
        """Send all dead letters of the queue again."""
        queue = self.queue
        row = self.top.history.queues.get(queue)
        count = f"{row.now.dead:,} " if row is not None else ""

        def answered(yes: bool | None) -> None:
            if yes:
                self.top.change(
                    "replay dead letters",
                    "pgque_writer",
                    lambda client: client.replay_all(queue),
                    _said_of_all,
                )

        question = (
            f"Send all {count}dead letters of {printable(queue)} again?\n\n"
            "Each is a new event, which every consumer of the queue gets."
        )
        self.app.push_screen(Confirm(question), answered)

    def action_purge(self) -> None:
        """Delete old dead letters of the queue."""
        queue = self.queue

        def told(days: float | None) -> None:
            if days is not None:
                question = (
                    f"Delete the dead letters of {printable(queue)} that are older than "
                    f"{days:g} days, for good?"
                )
                self.app.push_screen(Confirm(question), lambda yes: answered(yes, days))

        def answered(yes: bool | None, days: float) -> None:
            if yes:
                self.top.change(
                    "purge dead letters",
                    "pgque_admin",
                    lambda client: client.purge(queue, days * SECONDS_A_DAY),
                    lambda deleted: f"{deleted:,} deleted.",
                )

        self.app.push_screen(AskDays(), told)


def ask_to_replay(top: TopApp, queue: str, number: int) -> None:
    """Send a dead letter again after a yes."""

    def answered(yes: bool | None) -> None:
        if yes:
            top.change(
                "replay dead letters",
                "pgque_writer",
                lambda client: client.replay(number),
                lambda event: f"Dead letter {number} was sent again as event {event}.",
            )

    question = (
        f"Send dead letter {number} again?\n\n"
        f"It is a new event, which every consumer of {printable(queue)} gets."
    )
    top.push_screen(Confirm(question), answered)


def _said_of_all(result: ReplayResult) -> str:
    said = f"{result.replayed:,} sent again, {result.failed:,} failed"
    return f"{said}; the first: {result.first_error}" if result.failed else f"{said}."
