"""Caution: a consumer's memory of lost batches, so that one message cannot stop it.

A message whose handler certainly ended the transaction is *convicted*: at its next delivery it
is nacked without a call. One whose handler was at work when the connection broke is *suspected*: it
is handled again in a transaction of its own, and convicted if that breaks too. If no message is
known, the batch is handled again by halves, until the message is alone: its neighbours are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pgque.message import Message

STRIKES: Final = 2
"""How often a connection has to break on a message alone in its transaction, or first suspected."""

PARTS_BEFORE_GROWTH: Final = 4
"""How many parts of a size must go well before larger ones are tried."""

_Key = tuple[int, int]


@dataclass(frozen=True)
class Owed:
    """What a transaction that a handler committed did, and could not ack.

    ``xid`` its id; ``handled`` the messages up to that handler's own; ``failed`` those to nack
    """

    xid: str
    batch_id: int
    handled: list[Message]
    failed: list[tuple[Message, str]]


class Caution:
    """What one consumer knows of messages that broke a transaction.

    :param max_messages: the most messages in one batch.
    """

    def __init__(self, max_messages: int) -> None:
        self._max_messages = max_messages
        self._convicted: dict[_Key, str] = {}
        self._strikes: dict[_Key, int] = {}
        self._most: int | None = None  # messages in one transaction
        self._left: int = 0  # messages until the end of the part that was lost
        self.owed: Owed | None = None

    def part_of(self, messages: list[Message]) -> list[Message]:
        """Return how much of a batch to handle in one transaction: its beginning or all of it."""
        if self._most is None and not self._strikes:
            return messages
        part = messages if self._most is None else messages[: self._most]
        for number, message in enumerate(part):
            if _key(message) in self._strikes and _key(message) not in self._convicted:
                return part[: max(number, 1)]
        return part

    @property
    def convicted(self) -> bool:
        """Whether there is any message that must not be handled."""
        return bool(self._convicted)

    def verdict(self, message: Message) -> str | None:
        """Return why a message must not be handled; None if it may."""
        return self._convicted.get(_key(message))

    def suspect(self, part: Sequence[Message], message: Message | None, reason: str) -> bool:
        """Note that a part was lost, maybe by a message of it: whether it is convicted now."""
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
        """Note that a message must not be handled, but nacked."""
        self._convicted[_key(message)] = reason

    def done(self, part: Sequence[Message]) -> None:
        """Note that a part was handled and acked."""
        if self._most is None and not self._strikes and not self._convicted:
            return
        for message in part:
            self._strikes.pop(_key(message), None)
            self._convicted.pop(_key(message), None)
        if self._most is not None:
            self._left -= len(part)
            if self._left <= 0:
                # Not all at once: a batch that was too long for a timeout will be so again.
                more = 2 * self._most
                self._most = more if more < self._max_messages else None
                self._left = PARTS_BEFORE_GROWTH * more


def _key(message: Message) -> _Key:
    # With the attempt: a verdict on one says nothing about the next.
    return message.msg_id, message.retry_count
