"""Handlers: which function gets which message."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from pgque.errors import PgqueInvalidArgument
from pgque.models import decoder

if TYPE_CHECKING:
    from pgque.client import PgqueClient
    from pgque.message import Message

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

    def add(self, message_type: str, function: Callable[..., Any], model: Any = None) -> None:
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
        handler = _plain(function) if model is None else _typed(function, model)
        self._by_type[message_type] = handler
        self._catch_all = self._by_type.get(CATCH_ALL)

    def find(self, message_type: str) -> Handler | None:
        """Return the handler for a type: its own, else the catch-all, else None."""
        return self._by_type.get(message_type, self._catch_all)

    def __len__(self) -> int:
        return len(self._by_type)


def _plain(function: Callable[..., Any]) -> Handler:
    return Handler(function, takes_client=_arguments(function, "message", "client") == 2)


def _typed(function: Callable[..., Any], model: Any) -> Handler:
    """Return a handler whose function gets an object of the model in place of the message."""
    count = _arguments(function, "payload", "client", "message")
    decode = decoder(model)
    if count == 1:

        @wraps(function)
        def call(message: Message) -> Any:
            return function(decode(message))

        return Handler(call, takes_client=False)

    @wraps(function)
    def call_with_client(message: Message, client: PgqueClient) -> Any:
        more = (client, message) if count == 3 else (client,)
        return function(decode(message), *more)

    return Handler(call_with_client, takes_client=True)


def _arguments(function: Callable[..., Any], *names: str) -> int:
    """Return with how many of these arguments a function wants to be called."""
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
        return 1
    for count in range(1, len(names) + 1):
        try:
            signature.bind(*names[:count])
        except TypeError:
            continue
        return count
    shapes = [f"({', '.join(names[:count])})" for count in range(1, len(names) + 1)]
    raise PgqueInvalidArgument(
        f"a handler takes {' or '.join(shapes)}, not {function.__qualname__}{signature}"
    )
