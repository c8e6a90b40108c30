"""An adjustable clock for the server: PostgreSQL's processes run under libfaketime.

Only these processes see it. The run and its clients keep the machine's clock, so the times that
they record stay comparable. Monotonic time does not change, just as when an administrator sets a
clock.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from pgque.embedded import Server

LIBRARIES: Final = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")
"""The paths of Debian's package ``libfaketime``. Its multi-threaded variant would need a lock."""
CACHED_FOR: Final = 1
"""Whole seconds for which a process caches the offset. Reading the file at each call would
allocate memory in signal handlers, which is not allowed there."""
SEEN_AFTER: Final = 2.5
"""Seconds after which every process shows a new time."""


def find_library() -> str | None:
    """Return the path of libfaketime, None if it is not installed."""
    found = [str(path) for pattern in LIBRARIES for path in Path("/").glob(pattern[1:])]
    return found[0] if found else None


class Clock:
    """The clock of one server: how many seconds it is ahead of the machine's."""

    def __init__(self, library: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pgque-clock-")
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        self._file = folder / "offset"
        self._library = library
        self.steps = 0
        self.offset = self.furthest = 0
        self.set(0)

    def set(self, offset: int) -> None:
        """Set the clock to so many seconds ahead of the machine's; below zero is behind it."""
        self.steps += offset != self.offset
        self.offset = offset
        self.furthest = max(self.furthest, offset)
        written = self._file.with_suffix(".new")
        written.write_text(f"{offset:+d}\n")
        written.chmod(0o644)
        written.rename(self._file)

    def catch_up(self) -> None:
        """Set it to the latest time that it has shown, so that nothing lies in the future."""
        self.set(self.furthest)

    def command(self) -> list[str]:
        """Return the prefix that makes a command run with this clock."""
        return [
            "/usr/bin/env",
            f"LD_PRELOAD={self._library}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            f"FAKETIME_CACHE_DURATION={CACHED_FOR}",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]

    def close(self) -> None:
        """Remove its file. Call this after the server has stopped."""
        self._folder.cleanup()


class ServerWithClock(Server):
    """An embedded server that runs with a `Clock`."""

    def __init__(self, *args: Any, clock: Clock | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._clock = clock

    def _plan(self, *args: Any) -> dict[str, Any]:
        plan = super()._plan(*args)
        if self._clock is not None:
            # The keeper process keeps the machine's clock, because it waits by it.
            plan["server"] = [*self._clock.command(), *plan["server"]]
        return plan
