"""Which functions may handle messages, and whether they want a client."""

import pytest

from pgque import PgqueInvalidArgument
from pgque.handlers import Handlers


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
def test_a_handler_takes_a_client_if_it_asks_for_one(function, expected):
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
def test_a_type_is_a_text(message_type):
    with pytest.raises(ValueError, match="a message type"):
        Handlers().add(message_type, print)
