"""Screens with retries and dead letters. Dead letters can be replayed or deleted here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pgque.info import ReplayResult
from pgque.top import columns, facts
from pgque.top.base import BaseApp
from pgque.top.dialogs import AskDays, Confirm
from pgque.top.message import MessageScreen
from pgque.top.screen import ListScreen, Page
from pgque.top.table import Listing
from pgque.watching.browse import LOOKED_AT, PAGE_AT_MOST, Letter, Retry, Wanted
from pgque.watching.readable import printable
from pgque.wire.calls import SECONDS_A_DAY


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
        "No retries are waiting."
        if consumer is None
        else f"None of the queue's next {LOOKED_AT:,} retries is for this consumer.",
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
        "No dead letters."
        if consumer is None
        else f"None of the queue's newest {LOOKED_AT:,} dead letters is from this consumer.",
        lambda b: b.dead_letters(queue, wanted, limit=PAGE_AT_MOST).rows,
    )


class LettersScreen(ListScreen):
    """A screen with a page of dead letters.

    :param queue: the queue's name.
    :param consumer: the consumer's name, if the screen shows one.
    :param pages: its pages.
    """

    def __init__(self, queue: str, consumer: str | None, pages: Sequence[Page[Any]]) -> None:
        super().__init__(pages)
        self.queue = queue
        self.consumer = consumer

    def open_letter_or_retry(self, thing: Letter | Retry) -> None:
        """Open the screen of a dead letter or a retry."""
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
        """Enable the keys for dead letters only on their page."""
        if action in ("replay", "replay_all", "purge"):
            return self.is_mounted and self.page.title == "Dead letters"
        return True

    def on_tabbed_content_tab_activated(self) -> None:
        """Update the keys in the footer to the page's."""
        super().on_tabbed_content_tab_activated()
        self.refresh_bindings()

    def action_replay(self) -> None:
        """Replay the dead letter under the cursor."""
        letter = self.page.listing.selected
        if isinstance(letter, Letter):
            ask_to_replay(self.top, self.queue, letter.letter)

    def action_replay_all(self) -> None:
        """Replay all dead letters of the queue."""
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
            f"Replay all {count}dead letters of {printable(queue)}?\n\n"
            "Each becomes a new event, delivered to every consumer of the queue."
        )
        self.app.push_screen(Confirm(question), answered)

    def action_purge(self) -> None:
        """Delete old dead letters of the queue."""
        queue = self.queue

        def told(days: float | None) -> None:
            if days is not None:
                question = (
                    f"Permanently delete the dead letters of {printable(queue)} that are older "
                    f"than {days:g} days?"
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


def ask_to_replay(top: BaseApp, queue: str, number: int) -> None:
    """Replay a dead letter after a confirmation."""

    def answered(yes: bool | None) -> None:
        if yes:
            top.change(
                "replay dead letters",
                "pgque_writer",
                lambda client: client.replay(number),
                lambda event: f"Dead letter {number} was sent again as event {event}.",
            )

    question = (
        f"Replay dead letter {number}?\n\n"
        f"It becomes a new event, delivered to every consumer of {printable(queue)}."
    )
    top.push_screen(Confirm(question), answered)


def _said_of_all(result: ReplayResult) -> str:
    said = f"{result.replayed:,} sent again, {result.failed:,} failed"
    return f"{said}; first error: {result.first_error}" if result.failed else f"{said}."
