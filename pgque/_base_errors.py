"""The errors that `pgque.message` raises, below `pgque.errors`, which needs its `Message`.

Their `__module__` is ``pgque.errors``, where users find them.
"""

# ruff: noqa: N818 (see errors.py)

from __future__ import annotations

from typing import ClassVar


class PgqueError(Exception):
    """Base class of all errors of pgque.

    `sqlstate` is the server's five-character code, or None if the client raised the error.
    """

    __module__ = "pgque.errors"

    advice: ClassVar[str] = ""

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class PgqueInvalidArgument(PgqueError, ValueError):
    """An argument that pgque or PostgreSQL refuses (22023 and the rest of class 22)."""

    __module__ = "pgque.errors"


class PgquePayloadError(PgqueInvalidArgument):
    """A payload that cannot be sent, or a received payload that cannot be decoded."""

    __module__ = "pgque.errors"
