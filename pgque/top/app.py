"""The application: it takes samples in a thread, one after the other, and its screens show them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import ClassVar, Final, TypeVar

from rich.text import Text
from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.timer import Timer

from pgque.client import PgqueClient
from pgque.errors import PgqueConnectionError, PgqueError, PgquePermissionDenied
from pgque.top.board import Board
from pgque.top.dialogs import Help
from pgque.top.history import History
from pgque.top.queue import QueueScreen
from pgque.top.screen import Watching
from pgque.top.source import Source
from pgque.top.summary import head
from pgque.watching.live import Sample
from pgque.watching.readable import duration

T = TypeVar("T")

INTERVALS: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between samples that the keys + and - choose from."""


class TopApp(App[None]):
    """`pgque top`.

    :param source: the database.
    :param first: a sample that was taken already.
    :param interval: seconds between samples.
    :param queue: the queue that is shown at first; None for all of them.
    """

    TITLE = "pgque top"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", "Pause", key_display="space"),
        Binding("minus", "slower", "Slower", key_display="-", show=False),
        Binding("plus,equals_sign", "faster", "Faster", key_display="+", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    class Looked(Message):
        """A sample was taken."""

        def __init__(self, sample: Sample) -> None:
            super().__init__()
            self.sample = sample

    class Failed(Message):
        """The database could not be asked."""

        def __init__(self, error: PgqueError) -> None:
            super().__init__()
            self.error = error

    class Changed(Message):
        """A change was made, or refused."""

        def __init__(self, text: str, *, error: bool) -> None:
            super().__init__()
            self.text = text
            self.error = error

    def __init__(
        self, source: Source, first: Sample, *, interval: float = 1.0, queue: str | None = None
    ) -> None:
        super().__init__()
        self.source = source
        self.interval = interval
        self.paused = False
        self.lost = ""
        """Why there is no connection; empty where there is one."""
        self.history = History()
        self.history.add(first)
        self._first_queue = queue
        self._looking = False
        self._lost_at = 0.0
        self._timer: Timer | None = None

    @property
    def now(self) -> float:
        """The server's time at the newest sample, in seconds since 1970."""
        assert self.history.sample is not None
        return self.history.sample.at

    def head(self) -> Text:
        """Return the first line of a screen."""
        assert self.history.sample is not None
        return head(self.source.where, self.history.sample, self.interval, self.paused)

    def on_mount(self) -> None:
        """Show the first screen and begin to take samples."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.exit)
        self.push_screen(Board())
        if self._first_queue is not None:
            self.push_screen(QueueScreen(self._first_queue))
        self._set_interval(self.interval)

    def on_unmount(self) -> None:
        """Wake the threads that wait for the server."""
        self.source.close()

    def look(self) -> None:
        """Take a sample, unless that is being done or the refresh is paused."""
        if not self._looking and not self.paused:
            self._looking = True
            self._look()

    @work(thread=True, group="look")
    def _look(self) -> None:
        try:
            self.post_message(self.Looked(self.source.look()))
        except PgqueError as error:
            self.post_message(self.Failed(error))
        finally:
            self._looking = False

    def report(self, error: PgqueError) -> None:
        """Say that the database could not be asked; from any thread."""
        self.post_message(self.Failed(error))

    def on_top_app_looked(self, event: Looked) -> None:
        """Show a sample."""
        self.history.add(event.sample)
        back = bool(self.lost)
        self.lost = ""
        if (screen := self._watching()) is not None:
            if back:
                screen.say("The connection is there again.")
            screen.show()

    def on_top_app_failed(self, event: Failed) -> None:
        """Show that the connection is gone, or what else was refused."""
        text = str(event.error).partition("\n")[0]
        screen = self._watching()
        if not isinstance(event.error, PgqueConnectionError):
            if screen is not None:
                screen.say(text, error=True)
            return
        if not self.lost:
            self._lost_at = time.monotonic()
        since = duration(time.monotonic() - self._lost_at)
        self.lost = f" !! no connection for {since}, trying again: {' '.join(text.split())}"
        if screen is not None:
            screen.show_lost()

    def change(
        self, what: str, needs: str, change: Callable[[PgqueClient], T], done: Callable[[T], str]
    ) -> None:
        """Change something in a thread, and say what came of it.

        :param what: what is done, in words.
        :param needs: the role that it needs.
        :param done: what is said of its result.
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

    def on_top_app_changed(self, event: Changed) -> None:
        """Say what came of a change, and show what is there now."""
        for screen in self.screen_stack:
            if isinstance(screen, Watching):
                screen.outdate()
        if (shown := self._watching()) is not None:
            shown.say(event.text, error=event.error)
            shown.load()

    def action_pause(self) -> None:
        """Stop taking samples, or go on."""
        self.paused = not self.paused
        self.look()
        self._show()

    def action_faster(self) -> None:
        """Take samples more often."""
        less = [seconds for seconds in INTERVALS if seconds < self.interval]
        self._set_interval(less[-1] if less else self.interval)

    def action_slower(self) -> None:
        """Take samples less often."""
        more = [seconds for seconds in INTERVALS if seconds > self.interval]
        self._set_interval(more[0] if more else self.interval)

    def action_help(self) -> None:
        """Explain the keys and the columns."""
        self.push_screen(Help())

    def _set_interval(self, seconds: float) -> None:
        self.interval = seconds
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_interval(seconds, self.look)
        self._show()

    def _show(self) -> None:
        if (screen := self._watching()) is not None:
            screen.show()

    def _watching(self) -> Watching | None:
        """Return the foremost screen with lists that can be seen, if any is ready."""
        if not self.is_running:
            return None  # its screens are being taken apart
        for screen in reversed(self.screen_stack):
            if isinstance(screen, Watching):
                return screen if screen.is_mounted else None
        return None


def run(source: Source, first: Sample, *, interval: float, queue: str | None) -> int:
    """Run it in this terminal until it is quit; return the exit status."""
    app = TopApp(source, first, interval=interval, queue=queue)
    app.run()
    return app.return_code or 0
