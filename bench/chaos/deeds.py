"""Handlers that break the rules: each message names the deed of its handler.

The handler writes its effect first and then does the deed, so the check finds an effect that was
kept although the message failed. ``dead`` says how such a message must end: as a dead letter
without an effect, or handled once.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

import pgque
from bench.chaos.tables import NAMES_WITH_STANDBY, OTHER_ROLE

KILLS: Final = 2
"""How often a message kills each consumer. Until P16 holds, a message that always kills its
consumer is retried forever."""
KILLED: Final = ".killed"
LONG_TEXT: Final = 3_000_000

Do = Callable[["Call"], Any]


@dataclass
class Call:
    """One call of a handler: its arguments, and the folder for its notes."""

    message: pgque.Message
    client: pgque.PgqueClient
    consumer: str
    process: str
    folder: Path

    def run(self, query: str) -> None:
        """Run a statement on the transaction in which the ack happens."""
        self.client.conn.execute(query.encode())


class UnprintableError(Exception):
    """An exception whose text raises another one."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def _raise(make: Callable[[], BaseException]) -> Do:
    def do(call: Call) -> None:
        raise make()

    return do


def _roll_back(call: Call) -> None:
    call.run("rollback")


def _begin_again(call: Call) -> None:
    call.run("rollback")
    call.run("begin")
    call.run("insert into chaos_business (key) values ('of another transaction')")


def _commit(call: Call) -> None:
    """Commit, unless the name has a standby: its lock would end before the ack."""
    if call.consumer in NAMES_WITH_STANDBY:
        raise ValueError("would commit")
    call.run("commit")


def _close(call: Call) -> None:
    call.client.conn.close()


_OPEN: list[object] = []
"""References to the open blocks. Without one, a block would end when its function returns."""


def _leave_open(call: Call) -> None:
    block = call.client.conn.transaction()
    _OPEN.append(block)
    block.__enter__()


def _defer(call: Call) -> None:
    call.run("insert into chaos_child (parent) values (0)")


def _swallow(call: Call) -> None:
    with suppress(psycopg.Error):
        call.run("select 1 / 0")


def _ack(call: Call) -> None:
    call.client.ack(call.message.batch_id)


def _set_role(call: Call) -> None:
    call.run(f"set local role {OTHER_ROLE}")


def _set_path(call: Call) -> None:
    call.run("set local search_path to nowhere")


def _exit(call: Call) -> None:
    sys.exit(2)


def _generate(call: Call) -> Any:
    return (number for number in range(3))


def _await(call: Call) -> Any:
    return asyncio.sleep(0)


def _use_child(call: Call) -> None:
    """Start a child process, which must end on SIGTERM as it would without pgque."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.05)
    child.terminate()
    child.join(3.0)
    if child.is_alive():
        child.kill()
        raise RuntimeError("a child did not end on SIGTERM")


def _kill(call: Call) -> None:
    """Kill this process, and record it first so that the crew does not report a crash."""
    for number in range(KILLS):
        name = f"{call.consumer}.{call.message.msg_id}.{number}"
        try:
            (call.folder / name).touch(exist_ok=False)
        except FileExistsError:
            continue
        (call.folder / f"{call.process}{KILLED}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Deed:
    """A deed, and how its message must end."""

    do: Do
    what: str
    dead: bool = True
    writes: bool = True
    """Whether the handler writes its effect first. If the message dies, this must be undone."""


DEEDS: Final = {
    "rollback": Deed(_roll_back, "rolls back"),
    "begin": Deed(_begin_again, "rolls back, begins again and writes"),
    "commit": Deed(_commit, "commits", writes=False),
    "close": Deed(_close, "closes the connection"),
    "open": Deed(_leave_open, "leaves a savepoint open"),
    "deferred": Deed(_defer, "violates a deferred constraint"),
    "swallow": Deed(_swallow, "swallows a database error"),
    "text": Deed(_raise(UnprintableError), "raises an error without a text"),
    "long": Deed(_raise(lambda: ValueError("x" * LONG_TEXT)), "raises an error of 3 MB"),
    "surrogate": Deed(
        _raise(lambda: ValueError("\ud800\0")), "raises an error whose text PostgreSQL cannot store"
    ),
    "exit": Deed(_exit, "calls sys.exit"),
    "cancelled": Deed(_raise(asyncio.CancelledError), "raises asyncio.CancelledError"),
    "generator-exit": Deed(_raise(GeneratorExit), "raises GeneratorExit"),
    "generator": Deed(_generate, "returns a generator"),
    "coroutine": Deed(_await, "returns a coroutine"),
    "ack": Deed(_ack, "acks the batch itself"),
    "role": Deed(_set_role, "sets another role", dead=False),
    "path": Deed(_set_path, "sets another search_path", dead=False),
    "child": Deed(_use_child, "starts a process and ends it", dead=False),
    "kill": Deed(_kill, "kills its own process, twice", dead=False),
}
"""All deeds by name."""


def do(call: Call, name: str) -> Any:
    """Do a deed; return what the handler is to return."""
    return DEEDS[name].do(call)
