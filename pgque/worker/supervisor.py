"""The supervisor of a worker: it starts, restarts, replaces and stops the processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pgque.logs import Fields
from pgque.wire.background import Backoff
from pgque.worker.process import End, Process

logger = logging.getLogger("pgque.worker")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Maximum pause in seconds before a dead process is restarted."""
LIVED_WELL = 60.0
"""A process that ran for this many seconds is restarted with the first pause again."""


class LoadError(Exception):
    """A target could not be loaded at the start of the worker; the text says why in one line."""


class StartError(Exception):
    """No process could begin to work; the text is the error of one of them."""


class Place:
    """The place of one process, which is refilled whenever the process ends."""

    def __init__(self, target: str, number: int | None) -> None:
        self.target = target
        self.number = number
        self.name = target if number is None else f"{target}-{number}"
        self.process: Process | None = None
        self.wake = asyncio.Event()
        """Set to end the pause before a restart."""
        self.failed_first: bool | None = None
        """Whether its first process could not begin to work; None if that is not known yet."""


class Supervisor:
    """Runs targets in processes, until SIGTERM or SIGINT.

    :param targets: ``module:attribute``, each a `Consumer`, a `Ticker` or a function that returns
        one.
    :param processes: number of processes per target, default 1. Members of a cooperative group
        are named ``<subconsumer>-1`` and so on.
    :param grace: seconds that a process has to finish its current message, default 30; then it is
        killed.
    :param reload: whether to replace the processes when a Python file below the current directory
        changes. Needs the extra ``reload``.
    :param debug: whether processes print tracebacks of the errors that they report in one line.

    A process that dies is restarted after a pause that grows to 30 seconds. SIGHUP replaces all
    processes, unless the new code cannot be loaded.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        processes: int = 1,
        grace: float = 30.0,
        reload: bool = False,
        debug: bool = False,
    ) -> None:
        self._targets = tuple(dict.fromkeys(targets))
        self._numbers = range(1, processes + 1) if processes > 1 else (None,)
        self._grace = grace
        self._reload_on_change = reload
        self._debug = debug
        self._loaded: set[str] = set()
        self._error: Exception | None = None
        self._killing = False
        self._running: dict[Process, str] = {}

    def run(self) -> None:
        """Run until stopped.

        :raises LoadError: if a target cannot be loaded at the start.
        :raises StartError: if no process can begin to work: no server, not subscribed, no right.
        """
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._places = [Place(target, n) for target in self._targets for n in self._numbers]
        self._listen_to_signals()
        beside = [asyncio.create_task(self._reload_when_wanted())]
        if self._reload_on_change:
            beside.append(asyncio.create_task(self._watch_files()))
        try:
            await asyncio.gather(*map(self._keep, self._places))
        finally:
            self._kill_all()
            for task in beside:
                task.cancel()
            for result in await asyncio.gather(*beside, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
        if self._error is not None:
            raise self._error

    # One process after another

    async def _keep(self, place: Place) -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            place.wake.clear()
            began = clock()
            try:
                place.process = process = await self._start(place.name, place.target, place.number)
            except OSError as error:
                why, asked = f"could not be started: {error}", False
            else:
                end = await process.ended()
                place.process = None
                del self._running[process]
                why, asked = str(end), process.asked
                self._judge(place, end, asked)
            if self._stopping.is_set():
                return
            if asked or clock() - began > LIVED_WELL:
                backoff.reset()
            if not asked:
                pause = backoff.next()
                logger.warning(
                    "%s %s; again in %.1f s",
                    place.name,
                    why,
                    pause,
                    extra=Fields(worker=place.name, error=why, retry_in=pause),
                )
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(place.wake.wait(), pause)

    async def _start(
        self, name: str, target: str, number: int | None = None, *, check: bool = False
    ) -> Process:
        arguments = [target, f"--name={name}", f"--grace={self._grace}"]
        arguments += [] if number is None else [f"--number={number}"]
        arguments += ["--check"] * check + ["--debug"] * self._debug

        def loaded(process: Process, text: str) -> None:
            self._loaded.add(target)
            if not check:
                logger.info(
                    "%s starts: %s, pid %d", name, text, process.pid, extra=Fields(worker=name)
                )

        process = await Process.start(arguments, loaded)
        self._running[process] = name
        if self._killing:  # requested while the process was starting
            process.kill()
        elif self._stopping.is_set():
            self._end(process)
        return process

    def _judge(self, place: Place, end: End, asked: bool) -> None:
        """Give up if another attempt cannot help."""
        if asked:
            return
        if place.failed_first is None:
            place.failed_first = end.failed is not None
        if end.loaded is None and place.target not in self._loaded:
            self._give_up(LoadError(end.broken or f"{place.target} {end}"))
        elif all(one.failed_first for one in self._places):
            self._give_up(StartError(end.failed or f"{place.name} {end}"))

    def _give_up(self, error: Exception) -> None:
        if not self._stopping.is_set():
            self._error = error
            self._stop()

    # Stopping

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        # If SIGHUP is ignored, the worker runs under nohup.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup, _has_terminal())

    def _on_stop(self) -> None:
        if self._stopping.is_set():
            logger.warning("killing all processes")
            self._kill_all()
        else:
            logger.info("stopping after the current messages; a second signal kills the processes")
            self._stop()

    def _on_hangup(self, had_terminal: bool) -> None:
        if had_terminal and not _has_terminal():
            self._on_stop()  # the terminal was closed; this is not a request to reload
        else:
            self._reload_wanted.set()

    def _stop(self) -> None:
        self._stopping.set()
        for place in self._places:
            place.wake.set()
        for process in self._running:
            self._end(process)

    def _end(self, process: Process) -> None:
        name = self._running[process]

        def late() -> None:
            logger.warning(
                "%s did not end within %g s and is killed",
                name,
                self._grace,
                extra=Fields(worker=name, seconds=self._grace),
            )

        process.ask_to_end(self._grace, late)

    def _kill_all(self) -> None:
        self._killing = True
        for process in self._running:
            process.kill()

    # New code

    async def _reload_when_wanted(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            if not self._stopping.is_set() and await self._can_be_loaded():
                logger.info("reloading")
                for place in self._places:
                    place.wake.set()
                    if place.process is not None:
                        self._end(place.process)

    async def _can_be_loaded(self) -> bool:
        """Load each target in a test process, so that broken code does not replace running code."""
        for target in self._targets:
            try:
                process = await self._start(target, target, check=True)
            except OSError as error:
                logger.error("not reloaded: %s", error, extra=Fields(error=str(error)))
                return False
            end = await process.ended()
            del self._running[process]
            if self._stopping.is_set():
                return False
            if end.loaded is None:
                why = end.broken or f"{target} {end}"
                logger.error("not reloaded: %s", why, extra=Fields(error=why))
                return False
        return True

    async def _watch_files(self) -> None:
        from watchfiles import PythonFilter, awatch

        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        here = Path.cwd()
        logger.info("watching %s", here, extra=Fields(path=str(here)))
        try:
            async for changes in awatch(here, watch_filter=PythonFilter()):
                files = ", ".join(sorted({os.path.relpath(path, here) for _, path in changes}))
                logger.info("changed: %s", files, extra=Fields(path=files))
                self._reload_wanted.set()
        except Exception as error:  # the system's limits, mostly
            logger.error(
                "cannot watch %s: %s", here, error, extra=Fields(path=str(here), error=str(error))
            )


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
