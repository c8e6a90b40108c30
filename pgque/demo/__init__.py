"""The demo, `pgque demo`: a week of real flights through a real PostgreSQL, and the reckoning.

The way of an event: `producer` sends it, `consumers` handle it, `check` compares what they wrote
with the file. `run` is the course of it all, `worker` one process, `crew` all of them.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys

from pgque.errors import PgqueError

__all__ = ["DEFAULT_RATE", "main", "parse_rate"]

DEFAULT_RATE = 250.0
"""Events a second: 25 seconds for the whole week."""


def parse_rate(text: str) -> float:
    """Return a rate in events a second; ``max`` and ``0`` mean as fast as possible, which is 0.

    Raises ValueError for anything else that is not a positive number.
    """
    if text.strip().lower() == "max":
        return 0.0
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if rate >= 0:
        return 0.0 if math.isinf(rate) else rate
    raise ValueError(f"{text!r} is not a number of events a second, at least 0, or 'max'")


def main(dsn: str | None = None, rate: float | None = None, plain: bool | None = None) -> int:
    """Run the demo; return its exit status: 0 where the database and the file agree, else 1.

    :param dsn: the database to run in; None starts an embedded server for the time of the demo.
    :param rate: events a second, 0 as fast as possible, None for `DEFAULT_RATE`.
    :param plain: plain lines rather than a live picture; None means wherever there is no terminal.
    :returns: 128 and the number of a signal that ended it early, like a shell.
    """
    from pgque.demo.next import next_steps
    from pgque.demo.run import Run, database, tables
    from pgque.demo.signals import Interrupted, Signals
    from pgque.demo.view import choose_view

    view = choose_view(plain)
    with Signals() as signals:
        try:
            with database(dsn, signals, view.say) as where, tables(where, signals, view.say) as own:
                run = Run(where, own, DEFAULT_RATE if rate is None else rate, signals, view)
                right = run.run()
            if right:
                for line in next_steps(dsn):
                    view.say(line)
            return 0 if right else 1
        except Interrupted:
            with contextlib.suppress(OSError):
                view.say("stopped before the end; no process is left behind")
            return signals.exit_status
        except PgqueError as error:
            print(f"pgque: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        except OSError as error:
            if signals.received is None and not isinstance(error, BrokenPipeError):
                raise
            # Nobody reads any more. Python's own flush at exit would complain once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return signals.exit_status if signals.received else 1
