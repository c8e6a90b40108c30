"""Failures: describing a handler's exception, which must itself never fail.

An exception may be user code. Its `__str__` may raise, return 200 MB, or contain characters that
neither a log nor a database can store.
"""

from __future__ import annotations

from typing import Any, Final

LONGEST_TEXT: Final = 10_000
"""Maximum length of a description in characters. `sql/dead` cuts reasons at the same length."""

_CUT: Final = "... (cut)"
_LONGEST_CHAIN: Final = 50


def describe(error: BaseException) -> str:
    """Return ``<class>: <text>`` for an exception, made `printable`."""
    return printable(f"{type_name(error)}: {_text(error)}")


def type_name(value: object) -> str:
    """Return the name of a value's class, even if its metaclass raises."""
    try:
        return str(type(value).__name__)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return "an unnamed class"


def printable(text: str, encoding: str = "utf-8") -> str:
    """Return a text that PostgreSQL can store: cut at `LONGEST_TEXT`, invalid characters escaped.

    :param encoding: Python's name of the database's encoding.
    """
    # Cut first, because escaping a huge text is expensive; cut again, because escapes are longer.
    short = _cut(text)
    escaped = short.encode(encoding, "backslashreplace").decode(encoding).replace("\0", "\\x00")
    return _cut(escaped)


def is_loggable(error: BaseException) -> bool:
    """Tell whether `logging` can format an exception and its causes at a reasonable length."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if len(seen) > _LONGEST_CHAIN or not _has_good_text(one):
            return False
        waiting += [one.__cause__, one.__context__, *_members(one)]
    return True


def _text(error: BaseException) -> str:
    try:
        # A subclass of str may override encode().
        return str.__str__(str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as second:
        return f"(its text cannot be read: __str__ raised {type_name(second)})"


def _has_good_text(error: BaseException) -> bool:
    try:
        texts = [str(error), *map(str, getattr(error, "__notes__", ()))]
        for text in texts:
            text.encode()
        return sum(map(len, texts)) <= LONGEST_TEXT
    except KeyboardInterrupt:
        raise
    except BaseException:
        return False


def _members(error: BaseException) -> list[BaseException]:
    """Return the exceptions of an ExceptionGroup."""
    try:
        found: Any = getattr(error, "exceptions", ())
        return [one for one in found if isinstance(one, BaseException)]
    except KeyboardInterrupt:
        raise
    except BaseException:
        return []


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - len(_CUT)] + _CUT
