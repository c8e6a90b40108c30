"""Running a consumer's handlers here and now, by the consumer's own code, until nothing is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pgque.batches import Batches
from pgque.client import PgqueClient
from pgque.consumer import Consumer
from pgque.errors import mapped
from pgque.handlers import Handler, Handlers
from pgque.message import Message

SHOWN: Final = 10


@dataclass(frozen=True)
class Failure:
    """A message that was nacked: why, as the dead letter would say it, and what was raised.

    ``error`` is None where nothing was: there is no handler for the type, or the handler passed
    over an error of the database.
    """

    message: Message
    reason: str
    error: Exception | None


@dataclass
class Drained:
    """What `Kit.drain` has done: the messages in the order in which they were handled.

    A message that failed is among them, once for each time; ``failures`` says why it did.
    """

    messages: list[Message] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class HandlerFailed(AssertionError):
    """Handlers have failed: ``failures`` are all of them; the first error is the `__cause__`."""

    def __init__(self, drained: Drained) -> None:
        self.failures = drained.failures
        lines = [f"{len(self.failures)} of {len(drained.messages)} messages failed and were nacked:"]
        lines += [f"  {_attempt(failure.message)}: {failure.reason}" for failure in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"  and {len(self.failures) - SHOWN} more")
        super().__init__("\n".join(lines))


class Draining(Consumer):
    """A consumer that handles what is ready, in the caller's thread, and notes how that went."""

    def __init__(self, consumer: Consumer, drained: Drained) -> None:
        vars(self).update(vars(consumer))  # its handlers and options, and the event of its stop()
        self._drained = drained
        self._errors: dict[int, Exception] = {}
        self._handlers = _Noting(consumer._handlers, self._errors)

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._queue

    @property
    def stopping(self) -> bool:
        """Whether a handler has called the consumer's `stop`."""
        return self._stopping.is_set()

    def run(self, client: PgqueClient) -> int:
        """Handle one batch after the other until none is ready: how many messages.

        The client's connection is in autocommit.
        """
        batches = self._batches(client.conn)
        before = len(self._drained.messages)
        with mapped:
            try:
                messages = batches.next()
                while messages:
                    messages = self._handle_batch(client, batches, messages)
            finally:
                if not client.conn.closed:
                    batches.abandon()
        return len(self._drained.messages) - before

    def rest(self) -> None:
        """Forget that `stop` was called, as the end of `start` does."""
        self._stopping.clear()

    def _call_handlers(
        self, client: PgqueClient, batches: Batches, messages: list[Message]
    ) -> tuple[int, list[tuple[Message, str]]]:
        handled, failed = super()._call_handlers(client, batches, messages)
        self._drained.messages += messages[:handled]
        self._drained.failures += [
            Failure(message, reason, self._errors.get(message.msg_id)) for message, reason in failed
        ]
        self._errors.clear()
        return handled, failed


class _Noting(Handlers):
    """The handlers of a consumer; what they raise is noted on its way."""

    def __init__(self, handlers: Handlers, errors: dict[int, Exception]) -> None:
        vars(self).update(vars(handlers))
        self._errors = errors

    def find(self, message_type: str) -> Handler | None:
        handler = super().find(message_type)
        return handler and replace(handler, function=self._noting(handler.function))

    def _noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(message: Message, *client: PgqueClient) -> Any:
            try:
                return function(message, *client)
            except Exception as error:
                self._errors[message.msg_id] = error
                raise

        return call


def _attempt(message: Message) -> str:
    again = f", retry {message.retry_count}" if message.retry_count else ""
    return f"message {message.msg_id} ({message.type}{again})"
