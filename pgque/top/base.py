"""The part of the application that its screens use: the samples, the database and changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rich.text import Text
from textual import work
from textual.app import App
from textual.message import Message

from pgque.client import PgqueClient
from pgque.errors import PgqueError, PgquePermissionDenied
from pgque.top.history import History
from pgque.top.source import Source
from pgque.top.summary import head
from pgque.watching.live import Sample

T = TypeVar("T")


class BaseApp(App[None]):
    """Holds the samples and asks the database. `TopApp` adds the keys and the screens.

    :param source: the database.
    :param first: a sample that was already taken.
    :param interval: seconds between samples.
    """

    class Failed(Message):
        """A query failed."""

        def __init__(self, error: PgqueError) -> None:
            super().__init__()
            self.error = error

    class Changed(Message):
        """A change was made or refused."""

        def __init__(self, text: str, *, error: bool) -> None:
            super().__init__()
            self.text = text
            self.error = error

    def __init__(self, source: Source, first: Sample, interval: float) -> None:
        super().__init__()
        self.source = source
        self.interval = interval
        self.paused = False
        self.lost = ""
        """Why there is no connection; empty if there is one."""
        self.history = History()
        self.history.add(first)

    @property
    def now(self) -> float:
        """The server's time at the newest sample, in seconds since 1970."""
        assert self.history.sample is not None
        return self.history.sample.at

    def head(self) -> Text:
        """Return the first line of a screen."""
        assert self.history.sample is not None
        return head(self.source.where, self.history.sample, self.interval, self.paused)

    def report(self, error: PgqueError) -> None:
        """Report that a query failed. May be called from any thread."""
        self.post_message(self.Failed(error))

    def change(
        self, what: str, needs: str, change: Callable[[PgqueClient], T], done: Callable[[T], str]
    ) -> None:
        """Make a change in a thread, and show its outcome.

        :param what: the change in words, such as "purge dead letters".
        :param needs: the role that it needs.
        :param change: makes the change.
        :param done: returns the message to show for its result.
        """
        self._change(what, needs, change, done)

    @work(thread=True, group="change")
    def _change(
        self, what: str, needs: str, change: Callable[[PgqueClient], T], done: Callable[[T], str]
    ) -> None:
        try:
            said = self.Changed(done(self.source.change(change)), error=False)
        except PgquePermissionDenied:
            said = self.Changed(f"This role may not {what}: it needs {needs}.", error=True)
        except PgqueError as error:
            text = " ".join(str(error).partition("\n")[0].split())
            said = self.Changed(f"{what} failed: {text}", error=True)
        self.post_message(said)
