"""Progress: one moving line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.status import Status

if TYPE_CHECKING:
    from typing_extensions import Self


class Progress:
    """A context manager that reports the workload being measured."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._stack = ExitStack()
        self._status: Status | None = None
        self._began = time.monotonic()

    def begin(self, what: str) -> None:
        """Report the start of a workload."""
        self._print(f"[bold]{escape(what)}[/bold]")
        if self._status is not None:
            self._status.update(escape(what))

    def say(self, what: str) -> None:
        """Report a step of the current workload."""
        self._print("  " + escape(what))

    def _print(self, what: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:5.0f} s  {what}")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._stack.enter_context(self._console.status("starting the server"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
