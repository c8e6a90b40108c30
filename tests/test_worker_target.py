"""`module:attribute` becomes a consumer, or a one-line error that says why not."""

import itertools

import pytest

import pgque
from pgque.worker.target import TargetError, as_member, describe, load

numbers = itertools.count(1)

CONSUMERS = """
import pgque

class box:
    shipping = pgque.Consumer("", queue="orders", name="shipping")

ticker = pgque.Ticker("")
billing = pgque.Consumer("", queue="orders", name="billing")

def make():
    return pgque.Consumer("", queue="orders", name="made")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"shop_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def refused(target: str) -> str:
    with pytest.raises(TargetError) as caught:
        load(target)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(
    ("attribute", "is_called"),
    [("billing", "orders/billing"), ("box.shipping", "orders/shipping"), ("make", "orders/made")],
)
def test_a_target_can_be_a_name_a_class_attribute_or_a_factory(module, attribute, is_called):
    assert describe(load(f"{module(CONSUMERS)}:{attribute}")) == is_called


def test_a_target_can_be_a_ticker(module):
    assert describe(load(f"{module(CONSUMERS)}:ticker")) == "a ticker"


def test_the_error_about_a_missing_name_lists_the_existing_ones(module, tmp_path):
    name = module(CONSUMERS)
    assert refused(f"{name}:nothing") == f"{name} has no nothing; there is ticker, billing"
    assert refused(name) == f"say what to run: {name}:NAME; there is ticker, billing"
    assert refused("nowhere.at_all:x") == f"there is no module nowhere in {tmp_path} or sys.path"
    assert "type type" not in refused(f"{name}:box")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import no_such_thing",
            "ModuleNotFoundError: No module named 'no_such_thing' ({}, line 1)",
        ),
        ("\n1 / 0", "ZeroDivisionError: division by zero ({}, line 2)"),
        ("x = (", "SyntaxError: '(' was never closed ({}, line 1)"),
        ("import sys; sys.exit('no licence')", "SystemExit: no licence ({}, line 1)"),
        ("def consumer():\n    raise OSError", "OSError ({}, line 2)"),
        ("def consumer(queue): ...", "TypeError: consumer() missing"),
    ],
)
def test_an_error_in_the_module_is_reported_with_its_line(module, text, said):
    name = module(text)
    assert f"cannot load {name}:consumer: {said.format(f'{name}.py')}" in refused(
        f"{name}:consumer"
    )


def test_a_target_of_another_type_is_refused(module):
    name = module("consumer = 7")
    assert "is of the type int, not a Consumer or a Ticker" in refused(f"{name}:consumer")


@pytest.mark.parametrize("started", ["consumer.start()", "pgque.Ticker('').run()"])
def test_a_module_that_runs_a_program_is_refused(module, started):
    text = f"import pgque\nconsumer = pgque.Consumer('', queue='q', name='c')\n{started}"
    assert "when it is imported: put that below if __name__" in refused(f"{module(text)}:consumer")
    assert pgque.Consumer.start.__name__ == "start"


def test_members_are_numbered_and_others_share_a_name():
    member = pgque.Consumer("", queue="q", name="c", subconsumer="web", dead_interval=5)
    assert [str(as_member(member, n)) for n in (1, 2)] == ["q/c.web-1", "q/c.web-2"]
    alone = pgque.Consumer("", queue="q", name="c")
    assert as_member(alone, 2) is alone
