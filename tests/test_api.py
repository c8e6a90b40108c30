"""The public names: `__all__` and the package's exports agree."""

import inspect
from types import ModuleType

import pytest

import pgque
from pgque import errors


def exported() -> set[str]:
    return {
        name
        for name, value in vars(pgque).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }


def test_all_lists_exactly_the_exports() -> None:
    assert set(pgque.__all__) == exported()


def test_all_is_sorted() -> None:
    assert pgque.__all__ == sorted(pgque.__all__)


def test_every_error_is_public() -> None:
    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert raised <= set(pgque.__all__)


@pytest.mark.parametrize("name", sorted(exported()))
def test_every_public_name_has_a_docstring(name: str) -> None:
    value = getattr(pgque, name)
    assert value.__doc__
    if not isinstance(value, type):
        return
    for attribute, member in vars(value).items():
        if not attribute.startswith("_") and (
            inspect.isfunction(member) or isinstance(member, property)
        ):
            assert member.__doc__, f"{name}.{attribute}"
