"""Handlers: the functions that a consumer calls, by message type."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from pgque.errors import PgqueInvalidArgument
from pgque.models import decoder
from pgque.wire.failures import type_name

if TYPE_CHECKING:
    from pgque.client import PgqueClient
    from pgque.message import Message

CATCH_ALL = "*"


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that takes a message, or a message and a client; ``name`` is for logs."""

    function: Callable[..., Any]
    takes_client: bool
    name: str


class Handlers:
    """The handlers of a consumer, by message type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._catch_all: Handler | None = None

    def add(self, message_type: str, function: Callable[..., Any], model: Any = None) -> None:
        """Register a handler; raise `PgqueInvalidArgument` for a second one of the same type."""
        if not isinstance(message_type, str) or not message_type:
            raise PgqueInvalidArgument(
                f"on() takes a message type, a str, not {message_type!r}: "
                "write @consumer.on('order.created'), or @consumer.on('*') for every other type"
            )
        if message_type in self._by_type:
            raise PgqueInvalidArgument(
                f"type {message_type!r} already has a handler: {self._by_type[message_type].name}"
            )
        handler = _plain(function) if model is None else _typed(function, model)
        self._by_type[message_type] = handler
        self._catch_all = self._by_type.get(CATCH_ALL)

    def find(self, message_type: str) -> Handler | None:
        """Return the handler for a type, else the catch-all, else None."""
        return self._by_type.get(message_type, self._catch_all)

    def __len__(self) -> int:
        return len(self._by_type)


def _plain(function: Callable[..., Any]) -> Handler:
    takes_client = _arguments(function, "message", "client") == 2
    return Handler(function, takes_client, name_of(function))


def _typed(function: Callable[..., Any], model: Any) -> Handler:
    """Return a handler whose function takes an instance of the model instead of the message."""
    count = _arguments(function, "payload", "client", "message")
    decode = decoder(model)
    if count == 1:

        @wraps(function)
        def call(message: Message) -> Any:
            return function(decode(message))

        return Handler(call, False, name_of(function))

    @wraps(function)
    def call_with_client(message: Message, client: PgqueClient) -> Any:
        more = (client, message) if count == 3 else (client,)
        return function(decode(message), *more)

    return Handler(call_with_client, True, name_of(function))


def refuse_unrun(result: Any, handler: Handler) -> None:
    """Raise if a handler's result shows that its body did not run, and close that result.

    :raises HandlerDidNotRunError: for an awaitable, a generator or an async generator.
    """
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()  # otherwise Python warns that it was never awaited
    elif isinstance(result, Future):
        result.cancel()
    elif not (inspect.isawaitable(result) or isinstance(result, AsyncIterator)):
        return
    raise HandlerDidNotRunError(
        f"{handler.name} returned {type_name(result)}, so its body did not run to the "
        "end: handlers are called synchronously. Use asyncio.run() inside a plain function"
    )


class HandlerDidNotRunError(TypeError):
    """A handler returned an object that would still have to be run."""


def name_of(function: Any) -> str:
    """Return a handler's name, even for functools.partial and callable objects, which have none."""
    if isinstance(function, partial):
        return f"partial of {name_of(function.func)}"
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else f"an object of {type(function).__qualname__}"


def _arguments(function: Callable[..., Any], *names: str) -> int:
    """Return how many of these arguments a function takes."""
    if not callable(function):
        raise PgqueInvalidArgument(f"a handler is a function, not {function!r}")
    _refuse_async(function)
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
        f"a handler takes {' or '.join(shapes)}, not {name_of(function)}{signature}"
    )


def _refuse_async(function: Any) -> None:
    """Raise if calling a function does not run its body.

    A function wrapped by a decorator is not checked, because a plain wrapper may well run an async
    function. If it does not, `refuse_unrun` detects that from the result.
    """
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    for body in (inner, getattr(type(inner), "__call__", None)):  # noqa: B004 (its function)
        if inspect.iscoroutinefunction(body):
            kind = "async"
        elif inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
            kind = "a generator function"
        else:
            continue
        raise PgqueInvalidArgument(
            f"{name_of(function)} is {kind}, handlers are called synchronously: "
            "use asyncio.run() inside a plain function"
        )
