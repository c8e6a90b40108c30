"""Typed payloads: pydantic models and dataclasses, as arguments of handlers and of `send`.

pydantic is imported only when a model or a dataclass is used. Without pydantic, a dataclass is
created by its constructor and may only have fields of JSON's types, because nothing is converted.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Union

from pgque._plain import find_adapter, is_dataclass, name_of
from pgque.errors import PgqueInvalidArgument, PgquePayloadError

if TYPE_CHECKING:
    from pgque.message import Message

REASONS_SHOWN: Final = 5

NEEDS_PYDANTIC: Final = "install pydantic: pip install 'pydantic>=2'"

_PLAIN: Final[dict[Any, Callable[[Any], bool]]] = {
    Any: lambda value: True,
    bool: lambda value: isinstance(value, bool),
    dict: lambda value: isinstance(value, dict),
    float: lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    list: lambda value: isinstance(value, list),
    str: lambda value: isinstance(value, str),
    types.NoneType: lambda value: value is None,
}


def decoder(model: Any) -> Callable[[Message], Any]:
    """Return a function that builds an instance of a model from a message's payload.

    ``model`` is a pydantic model, a dataclass, or another type for which pydantic can build a
    TypeAdapter. Raises `PgqueInvalidArgument` for anything else, and if the model needs pydantic
    and it is missing. For a payload that does not fit, the function raises `PgquePayloadError` with
    the reasons in one line.
    """
    if isinstance(model, str):
        raise PgqueInvalidArgument(f"a model is a class, not the text {model!r}")
    adapter = find_adapter(model)
    if adapter is not None:
        return lambda message: _validate(adapter, model, message)
    if not is_dataclass(model):
        raise PgqueInvalidArgument(f"model={name_of(model)} is not a dataclass: {NEEDS_PYDANTIC}")
    checks = _checks(model)
    return lambda message: _construct(model, checks, message)


def _validate(adapter: Any, model: Any, message: Message) -> Any:
    if message.payload is None:
        raise _misfit(message, model, ["it is NULL"])
    try:
        return adapter.validate_json(message.payload)
    except ValueError as error:
        raise _misfit(message, model, _reasons(error)) from error


def _reasons(error: ValueError) -> list[str]:
    if not hasattr(error, "errors"):
        return [str(error)]
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [": ".join(filter(None, [".".join(map(str, one["loc"])), one["msg"]])) for one in found]


def _construct(model: Any, checks: dict[str, _Check], message: Message) -> Any:
    payload = message.json()
    if not isinstance(payload, dict):
        raise _misfit(message, model, [f"an object is needed, not {type(payload).__name__}"])
    wrong = []
    for field in dataclasses.fields(model):
        if field.name not in checks:
            continue
        if field.name in payload:
            if not checks[field.name].fits(payload[field.name]):
                wrong.append(f"{field.name}: {checks[field.name].name} is needed")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            wrong.append(f"{field.name}: it is missing")
    if wrong:
        raise _misfit(message, model, wrong)
    try:
        return model(**{name: payload[name] for name in checks if name in payload})
    except ValueError as error:  # raised by __post_init__
        raise _misfit(message, model, [str(error)]) from error


@dataclasses.dataclass(frozen=True)
class _Check:
    """The check for a field of a dataclass; ``name`` is the name of the field's type."""

    name: str
    fits: Callable[[Any], bool]


def _checks(model: Any) -> dict[str, _Check]:
    """Return a check for each field in a dataclass's constructor."""
    try:
        hints = typing.get_type_hints(model)
    except NameError as error:
        raise PgqueInvalidArgument(
            f"cannot read the fields of {name_of(model)}: {error}"
        ) from error
    checks = {}
    for field in dataclasses.fields(model):
        if field.init:
            check = _check(hints[field.name])
            if check is None:
                raise PgqueInvalidArgument(
                    f"field {field.name} of {name_of(model)} is {name_of(hints[field.name])}, "
                    f"which is not a JSON type and must be converted: {NEEDS_PYDANTIC}"
                )
            checks[field.name] = _Check(name_of(hints[field.name]), check)
    return checks


def _check(hint: Any) -> Callable[[Any], bool] | None:
    """Return a function that checks the type of a decoded value; None for types not in JSON."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _PLAIN.get(hint)
    if origin is Literal:
        return lambda value: any(value == one and type(value) is type(one) for one in arguments)
    if origin in (Union, types.UnionType):
        inner = [_check(one) for one in arguments]
        known = [check for check in inner if check is not None]
        if len(known) < len(inner):
            return None
        return lambda value: any(check(value) for check in known)
    if origin is dict and arguments[0] is not str:
        return None
    of = _check(arguments[-1]) if origin in (dict, list) else None
    if of is None:
        return None
    if origin is list:
        return lambda value: isinstance(value, list) and all(map(of, value))
    return lambda value: isinstance(value, dict) and all(map(of, value.values()))


def _misfit(message: Message, model: Any, reasons: list[str]) -> PgquePayloadError:
    shown = "; ".join(reasons[:REASONS_SHOWN])
    if len(reasons) > REASONS_SHOWN:
        shown += f"; and {len(reasons) - REASONS_SHOWN} more"
    return PgquePayloadError(
        f"the payload of message {message.msg_id} does not fit {name_of(model)}: {shown}"
    )
