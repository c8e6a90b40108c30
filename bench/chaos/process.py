"""One process of the run: `python -m bench.chaos.process`, with its plan on standard input.

It ends when the main process ends, for whatever reason.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from bench.chaos.handlers import make_consumer
from bench.chaos.journal import ATTEMPTS, TRANSACTIONS, Journal
from bench.chaos.producers import KINDS
from bench.chaos.tables import HANDLERS
from pgque.demo.worker import Job, end_with_main, read_plan
from pgque.errors import PgqueError
from pgque.ticker import Ticker

REFUSED = 3
"""The exit status if the first attempt fails; systemd would restart the process."""


def make_job(plan: dict[str, Any]) -> tuple[Job, Callable[[], None]]:
    """Return the job of a role and the call that runs it."""
    role, name, dsn, folder = plan["role"], plan["name"], plan["dsn"], Path(plan["folder"])
    if role in KINDS:
        producer = KINDS[role](dsn, name, Journal(folder, name, TRANSACTIONS), plan["rate"])

        def stop(number: int, frame: FrameType | None) -> None:
            producer.stop()

        signal.signal(signal.SIGTERM, stop)
        return producer, producer.run
    if role in HANDLERS:
        consumer = make_consumer(dsn, role, Journal(folder, name, ATTEMPTS), name, folder)
        return consumer, consumer.start
    ticker = Ticker(dsn)
    return ticker, ticker.run


def main() -> int:
    """Do the job; return the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    plan = read_plan()
    if plan is None:
        return 1
    job, run = make_job(plan)
    threading.Thread(target=end_with_main, args=(job,), daemon=True).start()
    try:
        run()
    except PgqueError as error:
        logging.getLogger("chaos").error("ends: %s", error)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
