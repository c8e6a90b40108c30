"""Running a consumer's handlers here and now, by the consumer's own code, until nothing is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pgque.batches import Batches
from pgque.client import PgqueClient
from pgque.consumer import Consumer
from pgque.errors import mapped
from pgque.handling import Handling
from pgque.message import Message

SHOWN: Final = 10


@dataclass(frozen=True)
class Failure:
    """A message that was nacked.

    ``message``  the `Message`
    ``reason``   why, as the dead letter would say it
    ``error``    what the handler raised; a LookupError where there is none for the type
    """

    message: Message
    reason: str
    error: Exception


@dataclass
class Drained:
    """What `Kit.drain` has done: the messages in the order in which they were handled.

    A message that failed is among them, once for each time; ``failures`` says why it did.
    """

    messages: list[Message] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class HandlerFailed(AssertionError):  # noqa: N818 (it says what went wrong, as pgque's errors do)
    """Handlers have failed: ``failures`` are all of them; the first error is the `__cause__`."""

    def __init__(self, drained: Drained) -> None:
        self.failures = drained.failures
        many = len(self.failures)
        lines = [f"{many} of {len(drained.messages)} messages failed and were nacked:"]
        lines += [f"  {_attempt(one.message)}: {one.reason}" for one in self.failures[:SHOWN]]
        if many > SHOWN:
            lines.append(f"  and {many - SHOWN} more")
        super().__init__("\n".join(lines))


class Draining(Consumer):
    """A consumer that handles what is ready, in the caller's thread, and notes how that went."""

    def __init__(self, consumer: Consumer, drained: Drained) -> None:
        vars(self).update(vars(consumer))  # its handlers and options, and the event of its stop()
        self._drained = drained
        self._handling = _Noting(consumer._handling, drained)

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
        self._watch = self._watch_on(client.conn)
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


class _Noting(Handling):
    """A consumer's way to handle a batch, which notes what was handled and what has failed."""

    def __init__(self, handling: Handling, drained: Drained) -> None:
        vars(self).update(vars(handling))
        self._drained = drained

    def call(
        self, client: PgqueClient, batches: Batches, messages: Sequence[Message], *more: Any
    ) -> tuple[int, list[tuple[Message, str]]]:
        handled, failed = super().call(client, batches, messages, *more)
        self._drained.messages += messages[:handled]
        return handled, failed

    def _explain(self, error: Any, message: Message, client: PgqueClient) -> str:
        reason = super()._explain(error, message, client)
        self._drained.failures.append(Failure(message, reason, error))
        return reason


def _attempt(message: Message) -> str:
    again = f", retry {message.retry_count}" if message.retry_count else ""
    return f"message {message.msg_id} ({message.type}{again})"
