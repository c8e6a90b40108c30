"""One process of a worker, as seen by the supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

LAST_WORDS = 1.0
"""Seconds to wait for the end of the socket after a process has ended. Its messages have arrived by
then, but another process may hold the socket open."""


@dataclass(frozen=True)
class End:
    """How a process ended."""

    loaded: str | None
    """A description of its job; None if the target could not be loaded."""
    broken: str | None
    """Why the target could not be loaded, if the process reported it."""
    failed: str | None
    """Why its first attempt to work failed, if the process reported it."""
    status: int

    def __str__(self) -> str:
        if reason := self.broken or self.failed:
            return f"failed: {reason}"
        if self.status < 0:
            how = f"was killed by {signal.Signals(-self.status).name}"
        else:
            how = f"ended with status {self.status}"
        return how if self.loaded else f"{how} while it was loading"


class Process:
    """A started process. `ended` must be awaited once.

    :param on_loaded: called with the description of its job, when the process reports it.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_loaded: Callable[[Process, str], None],
    ) -> None:
        self._process = process
        self._writer = writer
        self._on_loaded = on_loaded
        self._said: dict[str, str] = {}
        self._listening = asyncio.create_task(self._listen(reader))
        self._timer: asyncio.TimerHandle | None = None
        self.asked = False

    @classmethod
    async def start(
        cls, arguments: Sequence[str], on_loaded: Callable[[Process, str], None]
    ) -> Process:
        """Start a process; raise `OSError` if the system cannot.

        :param arguments: those of `pgque.worker.child`, without the socket.
        """
        ours, theirs = socket.socketpair()
        try:
            # A new session, so that Ctrl-C in the terminal reaches only the supervisor.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pgque.worker",
                *arguments,
                f"--socket={theirs.fileno()}",
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return cls(process, reader, writer, on_loaded)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask_to_end(self, grace: float, on_late: Callable[[], None]) -> None:
        """Let it stop after its current message; after ``grace`` seconds call on_late, kill it."""
        if self.asked:
            return
        self.asked = True
        with suppress(OSError):
            self._writer.write_eof()

        def too_late() -> None:
            on_late()
            self.kill()

        self._timer = asyncio.get_running_loop().call_later(grace, too_late)

    def kill(self) -> None:
        """Kill it, and the processes that its handlers started."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def ended(self) -> End:
        """Wait for its end."""
        try:
            status = await self._process.wait()
            await asyncio.wait({self._listening}, timeout=LAST_WORDS)
        finally:
            self._listening.cancel()
            self._writer.close()
            if self._timer is not None:
                self._timer.cancel()
        said = self._said
        return End(said.get("loaded"), said.get("broken"), said.get("failed"), status)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            async for line in reader:
                what, text = json.loads(line)
                self._said[what] = text
                if what == "loaded":
                    self._on_loaded(self, text)
