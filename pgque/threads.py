"""Consumers in threads of a program that does something else, such as a web server.

@asynccontextmanager
async def lifespan(app):
    async with Consuming(consumer):
        yield
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType

from pgque.consumer import Consumer
from pgque.errors import PgqueInvalidArgument
from pgque.logs import Fields

logger = logging.getLogger("pgque.consumer")

LOOK_EVERY = 0.01
"""Seconds between two looks whether a consumer has reached its queue."""


def _end_process(error: BaseException) -> None:
    """Ask this process to end, with SIGTERM, as its service manager would."""
    os.kill(os.getpid(), signal.SIGTERM)


class Consuming:
    """Runs consumers, each in a thread, for the length of a ``with`` or ``async with`` block.

    Entering returns when each of them has reached its queue, and raises what `Consumer.start`
    raises if one cannot: no server, not subscribed, no right. Leaving stops them and waits for the
    messages that are being handled; ``async with`` does not hold up the event loop meanwhile.

    :param consumers: at least one.
    :param on_failure: called, in the consumer's thread and with the exception, if one ends later by
        itself. The default asks the process to end with SIGTERM, so that the service manager starts
        it again: a server that has lost its consumer looks healthy and is not.
    """

    def __init__(
        self, *consumers: Consumer, on_failure: Callable[[BaseException], object] | None = None
    ) -> None:
        if not consumers or not all(isinstance(one, Consumer) for one in consumers):
            raise PgqueInvalidArgument("Consuming() takes pgque.Consumer objects, at least one")
        self._threads = [_Thread(consumer, on_failure or _end_process) for consumer in consumers]

    @property
    def alive(self) -> bool:
        """Whether all of them run: for the path that tells a load balancer about health."""
        return all(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Consuming:
        try:
            for thread in self._threads:
                thread.start()
            for thread in self._threads:
                thread.await_start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    async def __aenter__(self) -> Consuming:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()


class _Thread(threading.Thread):
    """The thread of one consumer."""

    def __init__(self, consumer: Consumer, on_failure: Callable[[BaseException], object]) -> None:
        super().__init__(name=f"pgque consumer {consumer}")
        self._consumer = consumer
        self._on_failure = on_failure
        self._error: BaseException | None = None
        self._started_well = False
        self._stopping = False

    def run(self) -> None:
        try:
            self._consumer.start()
        except BaseException as error:
            self._error = error
            if self._started_well and not self._stopping:
                logger.critical(
                    "consumer %s ended",
                    self._consumer,
                    exc_info=True,
                    extra=Fields(error=repr(error)),
                )
                self._on_failure(error)

    def await_start(self) -> None:
        """Wait until the consumer has reached its queue; raise what has kept it from that."""
        while not self._consumer.working:
            self.join(LOOK_EVERY)
            if self._error is not None:
                raise self._error
            if not self.is_alive():
                return  # it was stopped meanwhile
        self._started_well = True

    def stop(self) -> None:
        self._stopping = True
        if self.is_alive():
            self._consumer.stop()
