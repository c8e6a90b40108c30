"""Processes under remote control, so that clients do not share one interpreter's lock."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

SPAWN = multiprocessing.get_context("spawn")
"""Fresh interpreters, which inherit no connection or thread from the parent."""


@dataclass
class Turn:
    """The result of one process's call. Times come from `time.perf_counter`, which all share."""

    result: Any
    began: float
    ended: float


def span(turns: list[Turn]) -> float:
    """Return the seconds from the first start to the last end."""
    return max(turn.ended for turn in turns) - min(turn.began for turn in turns)


class Crew:
    """Processes, each with an object ``make(*arguments)`` whose methods are called from here.

    ``make`` is a class or function that a fresh interpreter can import. Use it as a context
    manager: leaving it ends the processes and closes objects that have a ``close``.
    """

    def __init__(self, count: int, make: Callable[..., Any], *arguments: Any) -> None:
        self._pipes: list[Pipe] = []
        self._processes: list[Any] = []
        for _ in range(count):
            ours, theirs = SPAWN.Pipe()
            process = SPAWN.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for number in range(count):
            self._outcome(number)

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [process.pid for process in self._processes]

    def call(self, method: str, *arguments: Any, members: int | None = None) -> list[Turn]:
        """Let the first ``members`` (default all) call a method at the same time; wait for them."""
        self.begin(method, *arguments, members=members)
        return self.finish(members)

    def begin(self, method: str, *arguments: Any, members: int | None = None) -> None:
        """Let the members begin; `finish` waits for them."""
        for pipe in self._pipes[:members]:
            pipe.send((method, arguments))

    def finish(self, members: int | None = None) -> list[Turn]:
        """Wait for the calls that `begin` started."""
        return [self._outcome(number) for number, _ in enumerate(self._pipes[:members])]

    def tell(self, number: int, method: str, *arguments: Any) -> Turn:
        """Let one member call a method and wait for it."""
        self._pipes[number].send((method, arguments))
        return self._outcome(number)

    def _outcome(self, number: int) -> Turn:
        try:
            outcome = self._pipes[number].recv()
        except EOFError:
            code = self._processes[number].exitcode
            raise RuntimeError(f"a process of the bench ended with {code}") from None
        if isinstance(outcome, str):
            raise RuntimeError(f"in a process of the bench:\n{outcome}")
        assert isinstance(outcome, Turn)
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10 if error is None else 1)
            if process.is_alive():
                process.terminate()
                process.join()


def _serve(pipe: Pipe, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        began = time.perf_counter()
        thing = make(*arguments)
        pipe.send(Turn(None, began, time.perf_counter()))
        while True:
            method, arguments = pipe.recv()
            began = time.perf_counter()
            result = getattr(thing, method)(*arguments)
            pipe.send(Turn(result, began, time.perf_counter()))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass
    except Exception:
        pipe.send(traceback.format_exc())
        return
    if hasattr(thing, "close"):
        thing.close()
