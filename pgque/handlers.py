"""Handlers: which function gets which message."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pgque.errors import PgqueInvalidArgument

CATCH_ALL = "*"


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that takes a message, or a message and a client."""

    function: Callable[..., Any]
    takes_client: bool


class Handlers:
    """The handlers of a consumer, by message type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._catch_all: Handler | None = None

    def add(self, message_type: str, function: Callable[..., Any]) -> None:
        """Register a handler; a second one for the same type is a `PgqueInvalidArgument`."""
        if not isinstance(message_type, str) or not message_type:
            raise PgqueInvalidArgument(
                f"on() takes a message type, a str, not {message_type!r}: "
                "write @consumer.on('order.created'), or @consumer.on('*') for every other type"
            )
        if message_type in self._by_type:
            raise PgqueInvalidArgument(
                f"there is a handler for type {message_type!r} already: "
                f"{self._by_type[message_type].function.__qualname__}"
            )
        self._by_type[message_type] = Handler(function, _takes_client(function))
        self._catch_all = self._by_type.get(CATCH_ALL)

    def find(self, message_type: str) -> Handler | None:
        """Return the handler for a type: its own, else the catch-all, else None."""
        return self._by_type.get(message_type, self._catch_all)

    def __len__(self) -> int:
        return len(self._by_type)


def _takes_client(function: Callable[..., Any]) -> bool:
    if not callable(function):
        raise PgqueInvalidArgument(f"a handler is a function, not {function!r}")
    if inspect.iscoroutinefunction(function):
        raise PgqueInvalidArgument(
            f"{function.__qualname__} is async, handlers are called synchronously: "
            "use asyncio.run() inside of a plain function"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return False
    for arguments in ((None,), (None, None)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        positional = [
            p
            for p in signature.parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]
        return len(positional) == 2
    raise PgqueInvalidArgument(
        f"a handler takes (message) or (message, client), not {function.__qualname__}{signature}"
    )
