"""Converting pydantic models and dataclasses to JSON's types, with pydantic if it is installed."""

from __future__ import annotations

import dataclasses
import typing
from functools import lru_cache
from typing import Any

from pgque._base_errors import PgqueInvalidArgument


def to_plain(value: Any) -> Any:
    """Convert a pydantic model or a dataclass to JSON's types; TypeError for anything else.

    The keys are the names that `decoder` expects: a field's alias if it has one.
    """
    kind: Any = type(value)
    if hasattr(kind, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)
    if not is_dataclass(kind):
        raise TypeError(f"Object of type {kind.__name__} is not JSON serializable")
    adapter = dataclass_adapter(kind)
    if adapter is not None:
        return adapter.dump_python(value, mode="json", by_alias=True)
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@lru_cache(maxsize=1)
def type_adapter() -> Any:
    """Return pydantic's TypeAdapter; None without pydantic 2."""
    try:
        from pydantic import TypeAdapter
    except ImportError:
        return None
    return TypeAdapter


def find_adapter(model: Any) -> Any:
    """Return a TypeAdapter for a model; None without pydantic 2.

    Raises `PgqueInvalidArgument` if pydantic cannot build one.
    """
    make = type_adapter()
    if make is None:
        return None
    try:
        return make(model)
    except (NameError, RuntimeError, TypeError) as error:
        first = str(error).split("\n")[0]
        raise PgqueInvalidArgument(
            f"pydantic cannot make a model of {name_of(model)}: {first}"
        ) from error


@lru_cache(maxsize=256)
def dataclass_adapter(kind: Any) -> Any:
    """Return a TypeAdapter for a dataclass; None if pydantic is missing or cannot handle it."""
    try:
        return find_adapter(kind)
    except PgqueInvalidArgument:
        return None


def is_dataclass(model: Any) -> bool:
    """Tell whether a model is a dataclass, and not an instance of one."""
    return isinstance(model, type) and dataclasses.is_dataclass(model)


def name_of(model: Any) -> str:
    """Return the name of a model for error messages."""
    is_class = isinstance(model, type) and typing.get_origin(model) is None
    return str(model.__name__) if is_class else str(model)
