"""Running a consumer's handlers in the test's thread until no message is left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from pgque.client import open_connection
from pgque.consumer import Consumer
from pgque.consuming.batches import Batches
from pgque.consuming.caution import Caution
from pgque.consuming.handling import Handling
from pgque.consuming.isolation import ConsumerConnection, Isolation
from pgque.consuming.working import BatchLost, Work
from pgque.errors import mapped
from pgque.message import Message

SHOWN: Final = 10
MOST_LOSSES: Final = 100


@dataclass(frozen=True)
class Failure:
    """A message that was nacked.

    ``message``  the `Message`
    ``reason``   the reason that a dead letter would have
    ``error``    the handler's exception; a LookupError if the type has no handler
    """

    message: Message
    reason: str
    error: BaseException


@dataclass
class Drained:
    """The result of `Kit.drain`: the messages in the order in which they were handled.

    A failed message is included once per attempt, and ``failures`` has an entry for each.
    """

    messages: list[Message] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class HandlerFailed(AssertionError):  # noqa: N818 (describes the fault, like pgque's errors)
    """Handlers failed: ``failures`` has all of them; the first error is the `__cause__`."""

    def __init__(self, drained: Drained) -> None:
        self.failures = drained.failures
        many = len(self.failures)
        lines = [f"{many} of {len(drained.messages)} messages failed and were nacked:"]
        lines += [f"  {_attempt(one.message)}: {one.reason}" for one in self.failures[:SHOWN]]
        if many > SHOWN:
            lines.append(f"  and {many - SHOWN} more")
        super().__init__("\n".join(lines))


class Draining:
    """Handles a consumer's ready messages in the caller's thread, and records the results."""

    def __init__(self, consumer: Consumer, drained: Drained) -> None:
        self._consumer = consumer
        self._drained = drained
        self._handling = consumer._new_handling(_Noting)
        self._handling.drained = drained
        self._caution = Caution(consumer._max_messages)
        self._work: Work | None = None

    @property
    def queue(self) -> str:
        """The queue's name."""
        return self._consumer._queue

    @property
    def stopping(self) -> bool:
        """Whether a handler has called the consumer's `stop`."""
        return self._consumer._stopping.is_set()

    def run(self, dsn: str) -> int:
        """Handle one batch after the other until none is ready; return the number of messages.

        :param dsn: the kit's database.
        """
        before = len(self._drained.messages)
        for losses in count(1):
            try:
                self._drain(self._work or self._connect(dsn))
                break
            except BatchLost:  # a handler broke the transaction; the next attempt nacks its message
                self.close()
                if losses == MOST_LOSSES:
                    raise
        return len(self._drained.messages) - before

    def _connect(self, dsn: str) -> Work:
        conn = open_connection(ConsumerConnection, dsn)
        self._work = self._consumer._work_on(conn, self._handling, self._caution)
        return self._work

    def _drain(self, work: Work) -> None:
        with mapped:
            try:
                messages = work.next()
                while messages:
                    messages = work.handle(messages)
            finally:
                work.batches.abandon_quietly()

    def close(self) -> None:
        """Close the connection on which the handlers worked."""
        if self._work is not None:
            self._work.isolation.client.conn.close()
            self._work = None

    def rest(self) -> None:
        """Reset `stop`, like the end of `start`."""
        self._consumer._stopping.clear()


class _Noting(Handling):
    """A consumer's `Handling` that records the messages handled and failed."""

    drained: Drained

    def call(
        self, isolation: Isolation, batches: Batches, messages: Sequence[Message], *more: Any
    ) -> tuple[int, list[tuple[Message, str]]]:
        handled, failed = super().call(isolation, batches, messages, *more)
        self.drained.messages += messages[:handled]
        return handled, failed

    def _explain(self, error: BaseException, message: Message) -> str:
        pytest = sys.modules.get("_pytest.outcomes")
        if pytest is not None and isinstance(error, pytest.OutcomeException):
            raise error  # pytest.fail() in a handler is meant for the test
        reason = super()._explain(error, message)
        self.drained.failures.append(Failure(message, reason, error))
        return reason


def _attempt(message: Message) -> str:
    again = f", retry {message.retry_count}" if message.retry_count else ""
    return f"message {message.msg_id} ({message.type}{again})"
