"""The code of a worker's process: it loads its target and runs it until it is told to stop."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress

from pgque.consumer import Consumer
from pgque.errors import PgqueError
from pgque.logs import Fields
from pgque.worker.target import Job, TargetError, as_member, describe, load

logger = logging.getLogger("pgque.worker")


class Link:
    """The socket between a process and its supervisor.

    A thread waits for the supervisor's end to close. Then it stops the job, and kills the process
    if the job has not ended within ``grace`` seconds.
    """

    def __init__(self, descriptor: int, grace: float) -> None:
        os.set_inheritable(descriptor, False)  # handlers' child processes must not hold it open
        self._socket = socket.socket(fileno=descriptor)
        self._grace = grace
        self._job: Job | None = None
        threading.Thread(target=self._wait, name="pgque worker", daemon=True).start()

    def tell(self, what: str, text: str) -> None:
        """Send a message to the supervisor; do nothing if it is gone."""
        with suppress(OSError):
            self._socket.sendall(json.dumps([what, text]).encode() + b"\n")

    def stop_with_supervisor(self, job: Job) -> None:
        """Stop a job when the supervisor says so or is gone."""
        self._job = job

    def _wait(self) -> None:
        with suppress(OSError):
            while self._socket.recv(64):
                pass
        if self._job is None:
            os._exit(0)  # still importing
        self._job.stop()
        time.sleep(self._grace)
        if os.getpgrp() == os.getpid():  # includes processes that handlers started
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one process of a worker; return its exit status."""
    options = _parsed(arguments)
    link = Link(options.socket, options.grace)
    os.environ.setdefault("PGAPPNAME", f"pgque {options.name}")
    try:
        job = load(options.target)
    except TargetError as error:
        if options.debug:
            traceback.print_exc()
        link.tell("broken", str(error))
        return 2
    if options.check:
        link.tell("loaded", describe(job))
        return 0
    _log_as(options.name)
    if options.number is not None:
        alone, job = job, as_member(job, options.number)
        if job is alone and options.number == 1 and isinstance(job, Consumer):
            logger.warning(
                "%s is not a member of a group: while one of its processes works, the others stand "
                "by. With a subconsumer they would share its messages",
                job,
                extra=Fields(worker=options.name),
            )
    link.tell("loaded", describe(job))
    link.stop_with_supervisor(job)
    try:
        job.start() if isinstance(job, Consumer) else job.run()
    except PgqueError as error:
        if options.debug:
            traceback.print_exc()
        link.tell("failed", " ".join(str(error).split()))
        return 1
    except Exception:
        logger.critical("%s ended", describe(job), exc_info=True, extra=Fields(worker=options.name))
        return 1
    return 0


def _log_as(name: str) -> None:
    """Log to standard error, unless the user's module has configured logging."""
    escaped = name.replace("%", "%%")
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s %(levelname)s {escaped}: %(message)s"
    )


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pgque.worker", description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--name", required=True)
    parser.add_argument("--number", type=int)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--debug", action="store_true")
    return parser.parse_args(arguments)
