"""Consumers in threads of another program, such as a web server.

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
"""Seconds between two checks whether a consumer has reached its queue."""


def _end_process(error: BaseException) -> None:
    """Send SIGTERM to this process, as its service manager would."""
    os.kill(os.getpid(), signal.SIGTERM)


class Consuming:
    """Runs consumers, each in a thread, during a ``with`` or ``async with`` block.

    Entering the block waits until each consumer has reached its queue. If one cannot, it raises the
    error of `Consumer.start`: no server, not subscribed, no right. Leaving the block stops the
    consumers and waits for the messages being handled. ``async with`` does not block the event
    loop while it waits.

    :param consumers: at least one.
    :param on_failure: called with the exception, in the consumer's thread, if a consumer fails
        later on. The default sends SIGTERM to the process, so that its service manager restarts it:
        a server without its consumer would look healthy.
    """

    def __init__(
        self, *consumers: Consumer, on_failure: Callable[[BaseException], object] | None = None
    ) -> None:
        if not consumers or not all(isinstance(one, Consumer) for one in consumers):
            raise PgqueInvalidArgument("Consuming() takes pgque.Consumer objects, at least one")
        self._threads = [_Thread(consumer, on_failure or _end_process) for consumer in consumers]

    @property
    def alive(self) -> bool:
        """Whether all consumers are running; for a health check."""
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
        """Wait until the consumer has reached its queue; raise its error if it fails."""
        while not self._consumer.working:
            self.join(LOOK_EVERY)
            if self._error is not None:
                raise self._error
            if not self.is_alive():
                return  # it was stopped in between
        self._started_well = True

    def stop(self) -> None:
        self._stopping = True
        if self.is_alive():
            self._consumer.stop()
