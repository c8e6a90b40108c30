"""The Python reference, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final, ForwardRef

import pgque
from pgque import (
    dashboard,
    django,
    dump,
    embedded,
    install,
    logs,
    metrics,
    observers,
    sqlalchemy,
    tail,
    testing,
    threads,
    traces,
)
from pgque import errors as errors_module

PYTHON_HEAD: Final = """\
# Reference: Python

<!-- Made by docs/make_reference.py from the docstrings of pgque/. -->

`import pgque` provides all names of this page, except those of the modules at its end.
Every error is a subclass of [`PgqueError`](#errors). Its `__cause__` is the error of psycopg.
`PgqueClient` never commits or rolls back.
"""

CLASSES: Final = ("PgqueClient", "ClientPool", "Message", "Event", "Consumer", "Ticker")
ROWS: Final = (
    "QueueInfo",
    "ConsumerInfo",
    "QueueWait",
    "ConsumerWait",
    "DeadLetter",
    "ReplayResult",
)
INSTALL: Final = (
    "install", "uninstall", "script", "schema_version", "server_versions", "check_schema",
)  # fmt: skip
TESTING: Final = ("Kit", "Drained", "Failure", "HandlerFailed", "Databases")

SQLALCHEMY: Final = ("session_on", "connection_on")

_NAMES: Final = re.compile(r"^(`\w+`(?:(?:, | … )`\w+`)*) ")
"""The start of a list item in a docstring. Two or more spaces distinguish it from a sentence."""


def python_reference() -> str:
    """Return reference-python.md."""
    errors = {
        name for name in pgque.__all__
        if isinstance(getattr(pgque, name), type) and issubclass(getattr(pgque, name), Exception)
    }  # fmt: skip
    missing = set(pgque.__all__) - errors ^ {"connect", *CLASSES, *ROWS}
    if missing:
        raise LookupError(f"the reference and pgque.__all__ differ: {', '.join(sorted(missing))}")
    parts = [PYTHON_HEAD, _function(pgque.connect, "##")]
    parts += [_class(getattr(pgque, name), "##") for name in CLASSES]
    parts.append("\n## Rows of information\n")
    parts += [_row(getattr(pgque, name)) for name in ROWS]
    parts.append("\n## Errors\n\n")
    tree, rest = (inspect.getdoc(errors_module) or "").split("::\n", 1)[1].rsplit("\n\n", 1)
    parts.append(f"```text\n{inspect.cleandoc(tree)}\n```\n\n{_markdown(rest)}\n\n")
    parts += [_error(getattr(pgque, name)) for name in sorted(errors)]
    parts.append(f"\n## pgque.install\n\n{_markdown(inspect.getdoc(install) or '')}\n")
    parts += [_function(getattr(install, name), "###") for name in INSTALL]
    parts.append(f"\n## pgque.dump\n\n{_markdown(inspect.getdoc(dump) or '')}\n")
    parts += [_function(getattr(dump, name), "###") for name in ("dump", "consistent_snapshot")]
    parts.append("\n## pgque.tail\n")
    parts.append(_class(tail.Tail, "###"))
    parts.append(f"\n## pgque.observers\n\n{_markdown(inspect.getdoc(observers) or '')}\n")
    parts += [_class(observers.Observer, "###"), _class(observers.Batch, "###")]
    parts.append(f"\n## pgque.metrics\n\n{_markdown(inspect.getdoc(metrics) or '')}\n")
    parts.append(_function(metrics.collector, "###"))
    parts.append(_class(metrics.ConsumerMetrics, "###"))
    parts.append(f"\n## pgque.traces\n\n{_markdown(inspect.getdoc(traces) or '')}\n")
    parts.append(f"\n## pgque.logs\n\n{_markdown(inspect.getdoc(logs) or '')}\n")
    parts.append(f"\n## pgque.testing\n\n{_markdown(inspect.getdoc(testing) or '')}\n")
    parts += [_class(getattr(testing, name), "###") for name in TESTING]
    parts.append(_function(testing.advance, "###"))
    parts.append(f"\n## pgque.sqlalchemy\n\n{_markdown(inspect.getdoc(sqlalchemy) or '')}\n")
    parts += [_function(getattr(sqlalchemy, name), "###") for name in SQLALCHEMY]
    parts.append(f"\n## pgque.django\n\n{_markdown(inspect.getdoc(django) or '')}\n")
    parts.append(_function(django.orm_on, "###"))
    parts.append(f"\n## pgque.threads\n\n{_markdown(inspect.getdoc(threads) or '')}\n")
    parts.append(_class(threads.Consuming, "###"))
    parts.append(f"\n## pgque.dashboard\n\n{_markdown(inspect.getdoc(dashboard) or '')}\n")
    parts.append(_function(dashboard.create_app, "###"))
    parts.append(f"\n## pgque.embedded\n\n{_markdown(inspect.getdoc(embedded) or '')}\n")
    parts.append(_class(embedded.Server, "###"))
    parts.append(_function(embedded.default_data_dir, "###"))
    parts.append(_class(embedded.EmbeddedError, "###"))
    return "".join(parts)


def _class(cls: type, level: str) -> str:
    parts = [f"\n{level} {cls.__name__}\n\n"]
    if not issubclass(cls, Exception):
        parts.append(f"`{cls.__name__}{_signature(cls)}`\n\n")
    parts.append(f"{_markdown(inspect.getdoc(cls) or '')}\n")
    for name, member in _members(cls):
        if isinstance(member, property):
            words = _markdown(inspect.getdoc(member) or "")
            result = _name(inspect.signature(member.fget or cls).return_annotation)
            parts.append(f"\n{level}# {cls.__name__}.{name}\n\nProperty: `{result}`. {words}\n")
        else:
            parts.append(_function(member, f"{level}#", f"{cls.__name__}."))
    return "".join(parts)


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield public methods and properties in source order, those of base classes last."""
    seen = set()
    for owner in cls.__mro__:
        if owner.__module__.startswith("pgque"):
            for name, member in vars(owner).items():
                if name in seen or name.startswith("_"):
                    continue
                if inspect.isfunction(member) or isinstance(member, property):
                    seen.add(name)
                    yield name, member


def _function(function: Any, level: str, prefix: str = "") -> str:
    name = f"{prefix}{function.__name__}"
    words = _markdown(inspect.getdoc(function) or "")
    return f"\n{level} {name}\n\n`{name}{_signature(function)}`\n\n{words}\n"


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    shown, star = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        star = star or bool(stars)
        text = stars + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_name(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        shown.append(text)
    result = signature.return_annotation
    is_call = not isinstance(function, type) and result is not signature.empty
    return f"({', '.join(shown)})" + (f" -> {_name(result)}" if is_call else "")


def _name(annotation: Any) -> str:
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return annotation.strip("'\"")
    return "None" if annotation is None else getattr(annotation, "__name__", str(annotation))


def _row(cls: type) -> str:
    annotations = inspect.get_annotations(cls).items()
    fields = ", ".join(f"`{name}: {_name(annotation)}`" for name, annotation in annotations)
    words = _markdown(inspect.getdoc(cls) or "")
    return f"\n### {cls.__name__}\n\n{words}\n\nFields: {fields}.\n"


def _error(cls: type) -> str:
    words = " ".join(_markdown(inspect.getdoc(cls) or "").split())
    return f"- `{cls.__name__}`: {words}\n"


def _markdown(docstring: str) -> str:
    """Turn a docstring into Markdown: lists of parameters, indented code, double backticks."""
    parts = [_part(part) for part in docstring.replace("``", "`").split("\n\n")]
    return "\n\n".join(parts)


def _part(part: str) -> str:
    lines = part.split("\n")
    if all(line.startswith("    ") for line in lines):
        return f"```text\n{textwrap.dedent(part)}\n```"
    if re.match(r":\w+", part):
        items = re.split(r"\n(?=:)", part)
        return "\n".join(_item(" ".join(item.split())) for item in items)
    if re.match(rf"{_NAMES.pattern} ", part):
        items = re.split(r"\n(?=`)", part)
        return "\n".join(_NAMES.sub(r"- \1: ", " ".join(item.split())) for item in items)
    return part


def _item(item: str) -> str:
    item = re.sub(r"^:param (\w+):", r"- `\1`:", item)
    return re.sub(r"^:raises (\w+):", r"- raises `\1`:", item)
