"""One process of the demo, with one role. `process` starts it.

The plan arrives as one line of JSON on standard input. It is not an argument, because a DSN may
hold a password. The pipe closes when the main process ends, even by SIGKILL. Then this one ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from pgque.demo.consumers import make_audit, make_delays, make_gates
from pgque.demo.producer import Producer
from pgque.demo.tables import MEMBERS
from pgque.errors import PgqueError
from pgque.ticker import Ticker

GRACE = 2.0
"""Seconds that a worker has to finish after the main process has ended."""


class Job(Protocol):
    """The work of a process, until it is stopped."""

    def stop(self) -> None:
        """Ask the job to end soon. May be called from any thread."""


def make_job(role: str, dsn: str, rate: float) -> tuple[Job, Callable[[], None]]:
    """Return the job of a role and the function that runs it."""
    if role == "producer":
        producer = Producer(dsn, rate)
        return producer, producer.run
    if role == "ticker":
        ticker = Ticker(dsn)
        return ticker, ticker.run
    if role in MEMBERS:
        consumer = make_gates(dsn, role, to_be_killed=role == MEMBERS[0])
    else:
        consumer = {"delays": make_delays, "audit": make_audit}[role](dsn)
    return consumer, consumer.start


def main() -> int:
    """Run the job named on the command line. Return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    role = sys.argv[1]
    plan = read_plan()
    if plan is None:
        return 1
    try:
        job, run = make_job(role, plan["dsn"], plan["rate"])
        threading.Thread(target=end_with_main, args=(job,), daemon=True).start()
        run()
    except PgqueError as error:
        print(f"{role}: {error}", file=sys.stderr)
        return 1
    return 0


def read_plan() -> dict[str, Any] | None:
    """Read the next line of standard input. Return None if the main process has ended."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return None
        line += byte
    plan: dict[str, Any] = json.loads(line)
    return plan


def end_with_main(job: Job) -> None:
    """Wait for the end of standard input, then stop the job; kill this process if that fails."""
    os.read(0, 1)
    job.stop()
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)
