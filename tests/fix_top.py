"""`pgque top` without a terminal: a source with fixed figures, and the text of a screen.

The snapshots are in tests/snapshots_top, one file each. To rewrite them, run
`PGQUE_SNAPSHOTS=write pytest tests/test_top_screens.py` and check the diff.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from textual.events import Key
from textual.keys import _character_to_key
from textual.pilot import Pilot

from pgque.top.app import TopApp
from pgque.top.source import Source
from pgque.watching.browse import Letter, Page, Place, Retry, Sent, Wanted
from pgque.watching.live import ConsumerFigures, QueueFigures, Sample
from tests.running import PATIENCE

SNAPSHOTS = Path(__file__).parent / "snapshots_top"

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)

NEVER = 3600.0
"""An interval so long that no automatic sample is taken."""


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def queue_now(name: str, **changes: Any) -> QueueFigures:
    still = QueueFigures(
        queue=name,
        sent=0,
        unticked=0,
        tick_age=0.02,
        paused=False,
        rotation_age=3000.0,
        retries=0,
        dead=0,
        rate=0.0,
    )
    return still._replace(**changes)


def consumer_now(queue: str, name: str, **changes: Any) -> ConsumerFigures:
    still = ConsumerFigures(
        queue=queue,
        consumer=name,
        pending=0,
        lag=0.0,
        last_seen=0.1,
        holds_batch=False,
        rate=0.0,
    )
    return still._replace(**changes)


def sample(
    queues: Iterable[QueueFigures] = (),
    consumers: Iterable[ConsumerFigures] = (),
    *,
    at: float = 0.0,
    ticking: bool = True,
) -> Sample:
    return Sample(NOW.timestamp() + at, ticking, tuple(queues), tuple(consumers))


def sent(number: int, txid: int, age: float, *texts: str | None) -> Sent:
    """Return an event; its type, key and payload are the texts."""
    return Sent(*_stored(number, age, *texts), txid=txid)


def retry(number: int, due_in: float, consumer: str, retries: int, *texts: str | None) -> Retry:
    stored = _stored(number, 60.0, *texts)
    return Retry(*stored, due=ago(-due_in), retries=retries, consumer=consumer, owner=3)


def letter(
    number: int,
    age: float,
    consumer: str,
    retries: int | None,
    reason: str | None,
    *texts: str | None,
) -> Letter:
    stored = _stored(number + 1000, age, *texts)
    return Letter(*stored, number, ago(age), retries, consumer, reason)


def _stored(
    number: int, age: float, kind: str | None, key: str | None, payload: str | None
) -> tuple[Any, ...]:
    length = None if payload is None else len(payload)
    return number, ago(age), kind, key, None, None, None, payload, length


class FakeBrowser:
    """A browser that returns the given lists."""

    def __init__(self, lists: dict[str, Any]) -> None:
        self.lists = lists

    def messages(self, queue: str, *, limit: int) -> Page[Sent]:
        return Page(self.lists.get("messages", []))

    def retries(self, queue: str, wanted: Wanted, *, limit: int) -> Page[Retry]:
        return Page(self.lists.get("retries", []))

    def dead_letters(self, queue: str, wanted: Wanted, *, limit: int) -> Page[Letter]:
        return Page(self.lists.get("letters", []))

    def message(self, queue: str, place: Place) -> Sent | None:
        return next((one for one in self.lists["messages"] if one.place == place), None)

    def read(self, query: Any, values: Any) -> list[tuple[Any, ...]]:
        return self.lists.get("rows", [])


class FakeSource(Source):
    """A source without a database: it returns the samples in turn and then repeats the last one.

    A sample that is an exception is raised.
    """

    def __init__(self, *samples: Sample | Exception, **lists: Any) -> None:
        super().__init__("")
        self._samples = list(samples)
        self._browser = FakeBrowser(lists)
        self.where = "shop on db.internal"
        self.looks = 0

    def look(self) -> Sample:
        self.looks += 1
        found = self._samples[0] if len(self._samples) == 1 else self._samples.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def browse(self, ask: Callable[[Any], Any]) -> Any:
        return ask(self._browser)


class HeldSource(FakeSource):
    """A source that finds a list at once but returns it only when told to."""

    def __init__(self, *samples: Sample, **lists: Any) -> None:
        super().__init__(*samples, **lists)
        self.lists = self._browser.lists
        self.asked = 0
        self.let = threading.Event()
        self.let.set()

    def browse(self, ask: Callable[[Any], Any]) -> Any:
        found = list(super().browse(ask))
        self.asked += 1
        assert self.let.wait(PATIENCE)
        return found

    def change(self, change: Callable[[Any], Any]) -> Any:
        return change(None)

    def close(self) -> None:
        self.let.set()


@contextlib.asynccontextmanager
async def shown(
    source: Source,
    size: tuple[int, int] = (80, 24),
    *,
    interval: float = NEVER,
    queue: str | None = None,
) -> AsyncIterator[Pilot[None]]:
    """Run the application on the first sample of a source."""
    app = TopApp(source, await asyncio.to_thread(source.look), interval=interval, queue=queue)
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        yield pilot


def send_key(pilot: Pilot[None], key: str) -> None:
    """Press a key without waiting for its effect."""
    name, char = (_character_to_key(key), key) if len(key) == 1 else (key, None)
    pilot.app.post_message(Key(name, char))


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys and let the screen handle each; the pilot's own waits are too long."""
    for key in keys:
        send_key(pilot, key)
        await settled(pilot)
        await until(pilot, lambda: pilot.app.screen.is_mounted, "the screen")


async def seen(pilot: Pilot[None], text: str) -> None:
    """Wait until a text is on the screen."""
    await until(pilot, lambda: text in text_of(pilot), repr(text))


async def settled(pilot: Pilot[None]) -> None:
    """Wait until the threads are done and their results are on the screen."""
    for _ in range(2):
        await pilot.pause(0)
        await until(pilot, lambda: all(w.is_finished for w in pilot.app.workers), "the threads")
    await pilot.pause(0)


async def looked(pilot: Pilot[None]) -> None:
    """Take a sample and show it."""
    pilot.app.look()
    await settled(pilot)


async def until(pilot: Pilot[None], condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; fail if it does not within half a minute."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while not condition():
        assert loop.time() < end, f"timed out waiting for {what}\n{text_of(pilot)}"
        await pilot.pause(0.01)


def text_of(pilot: Pilot[None]) -> str:
    """Return the text of the screen, line by line."""
    app = pilot.app
    update = app.screen._compositor.render_update(full=True, screen_stack=app._background_screens)
    lines = ("".join(strip.text for strip in line) for line in update.strips)
    return "".join(f"{line.rstrip()}\n" for line in lines)


async def check(pilot: Pilot[None], name: str) -> None:
    """Compare the screen with its snapshot as soon as it stops changing."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("PGQUE_SNAPSHOTS") == "write":
        SNAPSHOTS.mkdir(exist_ok=True)
        await pilot.pause()
        path.write_text(text_of(pilot), encoding="utf-8")
    assert path.exists(), f"no snapshot {path.name}; see tests/fix_top.py for how to make it"
    expected = path.read_text(encoding="utf-8")
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while text_of(pilot) != expected and loop.time() < end:
        await pilot.pause(0.01)
    assert text_of(pilot) == expected


def play(steps: Awaitable[None]) -> None:
    """Run a test's steps."""

    async def run() -> None:
        await steps

    asyncio.run(run())
