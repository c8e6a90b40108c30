"""Caution: a consumer's memory of lost batches, so that one message cannot stop it.

A message whose handler definitely ended the transaction is *convicted*: at its next delivery it is
nacked without calling the handler. A message whose handler was running when the connection broke is
*suspected*: it is handled again in a separate transaction, and convicted if that one breaks too. If
the message is unknown, the batch is halved repeatedly until the message is isolated. Its neighbours
are handled on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pgque.message import Message

STRIKES: Final = 2
"""Broken connections after which a message is convicted; at the last one it must be alone."""

PARTS_BEFORE_GROWTH: Final = 4
"""Number of parts of a size that must succeed before the size is doubled."""

_Key = tuple[int, int]


@dataclass(frozen=True)
class Owed:
    """The ack that is missing because a handler committed the transaction itself.

    ``xid`` the transaction's id; ``handled`` the messages up to that handler's own; ``failed`` the
    messages to nack
    """

    xid: str
    batch_id: int
    handled: list[Message]
    failed: list[tuple[Message, str]]


class Caution:
    """One consumer's knowledge of messages that broke a transaction.

    :param max_messages: maximum number of messages in one batch.
    """

    def __init__(self, max_messages: int) -> None:
        self._max_messages = max_messages
        self._convicted: dict[_Key, str] = {}
        self._strikes: dict[_Key, int] = {}
        self._most: int | None = None  # maximum number of messages in one transaction
        self._left: int = 0  # messages until the end of the lost part
        self.owed: Owed | None = None

    def part_of(self, messages: list[Message]) -> list[Message]:
        """Return the first messages of a batch, or all, to handle in one transaction."""
        if self._most is None and not self._strikes:
            return messages
        part = messages if self._most is None else messages[: self._most]
        for number, message in enumerate(part):
            if _key(message) in self._strikes and _key(message) not in self._convicted:
                return part[: max(number, 1)]
        return part

    @property
    def convicted(self) -> bool:
        """Whether any message must not be handled."""
        return bool(self._convicted)

    def verdict(self, message: Message) -> str | None:
        """Return why a message must not be handled; None if it may."""
        return self._convicted.get(_key(message))

    def suspect(self, part: Sequence[Message], message: Message | None, reason: str) -> bool:
        """Record a lost part, maybe lost by ``message``; tell whether a message is convicted."""
        if message is None and len(part) > 1:
            self._most = len(part) // 2
            self._left = len(part)
            return False
        key = _key(message or part[0])
        self._strikes[key] = self._strikes.get(key, 0) + 1
        if self._strikes[key] < STRIKES or len(part) > 1:
            return False
        self._convicted[key] = reason
        return True

    def convict(self, message: Message, reason: str) -> None:
        """Record that a message must be nacked without calling its handler."""
        self._convicted[_key(message)] = reason

    def done(self, part: Sequence[Message]) -> None:
        """Record that a part was handled and acked."""
        if self._most is None and not self._strikes and not self._convicted:
            return
        for message in part:
            self._strikes.pop(_key(message), None)
            self._convicted.pop(_key(message), None)
        if self._most is not None:
            self._left -= len(part)
            if self._left <= 0:
                # Grow step by step: a batch that exceeded a timeout would exceed it again.
                more = 2 * self._most
                self._most = more if more < self._max_messages else None
                self._left = PARTS_BEFORE_GROWTH * more


def _key(message: Message) -> _Key:
    # Includes the attempt: a verdict on one does not apply to the next.
    return message.msg_id, message.retry_count
