"""Which functions can handle messages, and which of them take a client."""

import asyncio
import functools

import pytest

from pgque import PgqueInvalidArgument
from pgque.consuming.handlers import Handlers


def takes_client(function) -> bool:
    handlers = Handlers()
    handlers.add("x", function)
    return handlers._by_type["x"].takes_client


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda msg: None, False),
        (lambda msg, client: None, True),
        (lambda msg, attempts=3: None, False),
        (lambda *anything: None, False),
        ([].append, False),
        (max, False),  # a built-in function without a signature
        (print, False),
    ],
)
def test_a_handler_gets_a_client_if_it_has_a_parameter_for_one(function, expected):
    assert takes_client(function) is expected


async def coroutine(msg):
    pass


@pytest.mark.parametrize("function", [lambda: None, lambda a, b, c: None, coroutine, "text"])
def test_other_functions_are_refused(function):
    with pytest.raises(PgqueInvalidArgument):
        takes_client(function)


def test_a_second_handler_for_one_type_is_refused_by_name():
    handlers = Handlers()
    handlers.add("order", print)
    with pytest.raises(PgqueInvalidArgument, match="'order' already: print"):
        handlers.add("order", print)


@pytest.mark.parametrize("message_type", ["", None, print])
def test_a_type_must_be_a_str(message_type):
    with pytest.raises(ValueError, match="a message type"):
        Handlers().add(message_type, print)


class Calls:
    def __init__(self, *more) -> None:
        pass

    def __call__(self, msg):
        pass

    async def later(self, msg):
        pass


class CallsLater:
    async def __call__(self, msg):
        pass


def generator(msg):
    yield msg


async def async_generator(msg):
    yield msg


class YieldsWhenCalled:
    def __call__(self, msg):
        yield msg


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(coroutine),
        functools.partial(functools.partial(coroutine)),
        functools.partial(CallsLater()),
        CallsLater(),
        Calls().later,
        generator,
        functools.partial(generator),
        async_generator,
        YieldsWhenCalled(),
    ],
)
@pytest.mark.parametrize("model", [None, dict])
def test_a_function_whose_call_does_not_run_its_body_is_refused(function, model):
    with pytest.raises(PgqueInvalidArgument, match="called synchronously"):
        Handlers().add("x", function, model)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (functools.partial(print, "got"), "partial of print"),
        (functools.partial(Calls()), "partial of an object of Calls"),
        (Calls(), "an object of Calls"),
        (Calls, "Calls"),
    ],
)
@pytest.mark.parametrize("model", [None, dict])
def test_partials_and_callable_objects_are_handlers_and_have_a_name(function, name, model):
    handlers = Handlers()
    handlers.add("x", function, model)
    with pytest.raises(PgqueInvalidArgument, match=f"'x' already: {name}"):
        handlers.add("x", print)


def test_a_partial_with_wrong_arguments_is_refused_by_name():
    with pytest.raises(PgqueInvalidArgument, match="not partial of"):
        takes_client(functools.partial(lambda: None))


def test_a_plain_function_around_an_async_one_is_a_handler():
    ran = []

    async def work(msg):
        ran.append(msg)

    @functools.wraps(work)
    def runs_it(msg):
        asyncio.run(work(msg))

    handlers = Handlers()
    handlers.add("x", runs_it)
    handlers.find("x").function("message")
    assert ran == ["message"]
