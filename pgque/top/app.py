"""The application. It takes one sample after another in a thread, and its screens show them."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import ClassVar, Final

from textual import work
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.timer import Timer

from pgque.errors import PgqueConnectionError, PgqueError
from pgque.top.base import BaseApp
from pgque.top.dialogs import Help
from pgque.top.overview import OverviewScreen
from pgque.top.queue import QueueScreen
from pgque.top.screen import ListScreen
from pgque.top.source import Source
from pgque.watching.live import Sample
from pgque.watching.readable import duration

INTERVALS: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between samples. The keys + and - step through them."""


class TopApp(BaseApp):
    """`pgque top`.

    :param source: the database.
    :param first: a sample that was already taken.
    :param interval: seconds between samples.
    :param queue: the queue to show first; None shows all.
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

    class Sampled(Message):
        """A sample was taken."""

        def __init__(self, sample: Sample) -> None:
            super().__init__()
            self.sample = sample

    def __init__(
        self, source: Source, first: Sample, *, interval: float = 1.0, queue: str | None = None
    ) -> None:
        super().__init__(source, first, interval)
        self._first_queue = queue
        self._looking = False
        self._lost_at = 0.0
        self._timer: Timer | None = None

    def on_mount(self) -> None:
        """Show the first screen and start taking samples."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.exit)
        self.push_screen(OverviewScreen())
        if self._first_queue is not None:
            self.push_screen(QueueScreen(self._first_queue))
        self._set_interval(self.interval)

    def on_unmount(self) -> None:
        """Wake the threads that are waiting for the server."""
        self.source.close()

    def look(self) -> None:
        """Take a sample, unless one is being taken or the display is paused."""
        if not self._looking and not self.paused:
            self._looking = True
            self._look()

    @work(thread=True, group="look")
    def _look(self) -> None:
        try:
            self.post_message(self.Sampled(self.source.look()))
        except PgqueError as error:
            self.post_message(self.Failed(error))
        finally:
            self._looking = False

    def on_top_app_sampled(self, event: Sampled) -> None:
        """Show a sample."""
        self.history.add(event.sample)
        back = bool(self.lost)
        self.lost = ""
        if (screen := self._list_screen()) is not None:
            if back:
                screen.say("Connected again.")
            screen.show()

    def on_base_app_failed(self, event: BaseApp.Failed) -> None:
        """Show that the connection is lost, or another error."""
        text = str(event.error).partition("\n")[0]
        screen = self._list_screen()
        if not isinstance(event.error, PgqueConnectionError):
            if screen is not None:
                screen.say(text, error=True)
            return
        if not self.lost:
            self._lost_at = time.monotonic()
        since = duration(time.monotonic() - self._lost_at)
        self.lost = f" !! no connection for {since}, retrying: {' '.join(text.split())}"
        if screen is not None:
            screen.show_lost()

    def on_base_app_changed(self, event: BaseApp.Changed) -> None:
        """Show the outcome of a change, and reload the lists."""
        for screen in self.screen_stack:
            if isinstance(screen, ListScreen):
                screen.mark_outdated()
        if (shown := self._list_screen()) is not None:
            shown.say(event.text, error=event.error)
            shown.load()

    def action_pause(self) -> None:
        """Stop or resume taking samples."""
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
        if (screen := self._list_screen()) is not None:
            screen.show()

    def _list_screen(self) -> ListScreen | None:
        """Return the topmost screen with lists, if it is ready."""
        if not self.is_running:
            return None  # its screens are being removed
        for screen in reversed(self.screen_stack):
            if isinstance(screen, ListScreen):
                return screen if screen.is_mounted else None
        return None


def run(source: Source, first: Sample, *, interval: float, queue: str | None) -> int:
    """Run in this terminal until the user quits. Return the exit status."""
    app = TopApp(source, first, interval=interval, queue=queue)
    app.run()
    return app.return_code or 0
