"""Loading a worker's job, a `Consumer` or a `Ticker`, from `module:attribute`."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NoReturn

from pgque.consumer import Consumer
from pgque.ticker import Ticker

Job = Consumer | Ticker


class TargetError(Exception):
    """A target names nothing that can be run; the text says why in one line."""


def load(target: str) -> Job:
    """Import a target and return its consumer or ticker; call a function that returns one.

    :param target: ``module:attribute``; the attribute may have dots.
    :raises TargetError: if that fails for any reason.
    """
    module_name, _, attribute = target.partition(":")
    try:
        with _nothing_starts(module_name):
            module = _imported(module_name)
            found = _attribute(module, attribute)
            if callable(found) and not isinstance(found, Job):
                found = found()
    except TargetError:
        raise
    except (Exception, SystemExit) as error:
        raise TargetError(f"cannot load {target}: {_described(error)}") from error
    if not isinstance(found, Job):
        raise TargetError(
            f"{target} has the type {type(found).__name__}, not Consumer or Ticker"
            f"{_there_is(module)}"
        )
    return found


def describe(job: Job) -> str:
    """Return the name of a job in logs."""
    return str(job) if isinstance(job, Consumer) else "a ticker"


def as_member(job: Job, number: int) -> Job:
    """Return the job for one of several processes.

    A member of a cooperative group gets a unique name. Other jobs share one name: one process works
    and the others stand by.
    """
    if isinstance(job, Consumer) and job.subconsumer is not None:
        return job.as_member(f"{job.subconsumer}-{number}")
    return job


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists, but an import in it fails
        raise TargetError(f"no module {error.name} in {os.getcwd()} or sys.path") from None


def _attribute(module: ModuleType, path: str) -> object:
    if not path:
        raise TargetError(f"say what to run: {module.__name__}:NAME{_there_is(module)}")
    found: object = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise TargetError(f"{module.__name__} has no {path}{_there_is(module)}")
        found = getattr(found, name)
    return found


def _there_is(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Job)]
    return f"; it has {', '.join(names)}" if names else ""


@contextmanager
def _nothing_starts(module: str) -> Iterator[None]:
    """Refuse a module that starts a consumer when imported: the import would never end."""

    def refuse(job: Job) -> NoReturn:
        raise TargetError(
            f"{module} starts {describe(job)} when it is imported: put that under "
            "if __name__ == '__main__':"
        )

    start, run = Consumer.start, Ticker.run
    setattr(Consumer, "start", refuse)  # noqa: B010 (mypy minds an assignment)
    setattr(Ticker, "run", refuse)  # noqa: B010
    try:
        yield
    finally:
        setattr(Consumer, "start", start)  # noqa: B010
        setattr(Ticker, "run", run)  # noqa: B010


def _described(error: BaseException) -> str:
    """Return an error in one line, with the line of the user's code that raised it."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    if isinstance(error, SyntaxError):
        return text  # the text has the line
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename[:1] != "<"]
    here = os.path.join(os.getcwd(), "")
    own = [frame for frame in frames if frame.filename.startswith(here)]
    if not (own or frames):
        return text
    last = (own or frames)[-1]
    return f"{text} ({last.filename.removeprefix(here)}, line {last.lineno})"
