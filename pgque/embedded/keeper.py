"""The process between a program and its embedded server; run as a script, never imported.

It starts PostgreSQL, and stops it when its standard input says so or is closed. When the program
ends, even by SIGKILL, the kernel closes that pipe, so no server is left behind. The keeper has a
separate session, so that Ctrl-C does not reach it.

Input, one byte: ``s`` stop and remove temporary folders, ``r`` stop, ``i`` stop at once
like a crash. No input means ``s``. Output, one line: ``ready`` or ``failed``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Literal

PR_SET_PDEATHSIG = 1
LADDER = ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 10))
"""PostgreSQL's fast shutdown, immediate shutdown, then a kill; each with its timeout in seconds."""


class Keeper:
    """Runs the programs of one plan, one after the other, while its master is alive."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.log = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self.wake, wake_end = os.pipe()
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        # Empty handlers, because the programs would inherit SIG_IGN.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)

    def run(self) -> None:
        """Carry out the plan until told to stop, then clean up."""
        order = self._start_and_watch()
        if order == b"s":
            for folder in self.plan["temporary"]:
                shutil.rmtree(folder, ignore_errors=True)

    def _start_and_watch(self) -> bytes:
        for source, target in self.plan["copy"]:
            copy_readable(source, target)
        if self.plan["initdb"] is not None:
            order = self._initialise()
            if order is not None:
                return order
        server = self._spawn(self.plan["server"])
        order = self._watch(server)
        if order is None:
            return self._fail()
        stop(server, 1 if order == b"i" else 0)
        return order

    def _initialise(self) -> bytes | None:
        """Create the cluster in a temporary folder, and rename it when it is complete."""
        unfinished, data = self.plan["unfinished"], self.plan["data"]
        shutil.rmtree(unfinished, ignore_errors=True)
        os.mkdir(unfinished, 0o700)
        if self.plan["account"]:
            os.chown(unfinished, *self.plan["account"])
        initdb = self._spawn(self.plan["initdb"])
        order = self._watch(initdb)
        if order is not None:
            stop(initdb, 0)
            return order
        if initdb.returncode != 0:
            return self._fail()
        os.rename(unfinished, data)
        return None

    def _watch(self, program: subprocess.Popen[bytes]) -> bytes | None:
        """Wait for an order and return it; return None if ``program`` ends. Report readiness."""
        ready = False
        while program.poll() is None:
            pause = 1.0 if ready else 0.01
            readable, _, _ = select.select([0, self.wake], [], [], pause)
            if self.wake in readable:
                os.read(self.wake, 512)
            if 0 in readable:
                return os.read(0, 1) or b"s"
            # A forked child of the master may hold the pipe open after the master's end.
            if os.getppid() != self.plan["master"]:
                return b"s"
            if not ready and is_ready(self.plan["data"], program.pid):
                ready = True
                say(b"ready\n")
        return None

    def _fail(self) -> bytes:
        """Report the failure, and keep the log until the master has read it."""
        say(b"failed\n")
        return os.read(0, 1) or b"s"

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        uid, gid = self.plan["account"] or (None, None)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            cwd="/",
            env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            preexec_fn=die_with_parent,
        )


def stop(program: subprocess.Popen[bytes], step: int) -> None:
    """Stop ``program``, by force if necessary, beginning at ``step`` of the ladder."""
    for number, seconds in LADDER[step:]:
        program.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(seconds)
            return


def die_with_parent() -> None:
    """Have the kernel stop the server if this keeper is killed; Linux only."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def is_ready(data: str, pid: int) -> bool:
    """Tell whether the server ``pid`` accepts connections, from the last line of its pid file."""
    try:
        with open(os.path.join(data, "postmaster.pid")) as file:
            lines = file.read().split("\n")
    except FileNotFoundError:
        return False
    return lines[0] == str(pid) and len(lines) > 7 and lines[7].startswith("ready")


def say(word: Literal[b"ready\n", b"failed\n"]) -> None:
    """Send a word to the master; do nothing if it is gone."""
    with contextlib.suppress(OSError):
        os.write(1, word)


def copy_readable(source: str, target: str) -> None:
    """Copy a folder and make the copy readable for all users."""

    def copy(path: str, to: str) -> str:
        shutil.copyfile(path, to)
        os.chmod(to, 0o755 if os.access(path, os.X_OK) else 0o644)
        return to

    shutil.copytree(source, target, copy_function=copy, ignore=shutil.ignore_patterns("include"))
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o755)


if __name__ == "__main__":
    Keeper(json.loads(sys.argv[1])).run()
