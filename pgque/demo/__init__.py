"""The demo, `pgque demo`: sends a week of real flights through PostgreSQL and checks the result.

`producer` sends each event, `consumers` handle it, and `check` compares the results with the file.
`run` controls the demo, `worker` is one process, and `crew` holds all processes.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys

from pgque.errors import PgqueError

__all__ = ["DEFAULT_RATE", "main", "parse_rate"]

DEFAULT_RATE = 250.0
"""Events per second; the whole week takes 25 seconds."""


def parse_rate(text: str) -> float:
    """Parse a rate in events per second. ``max`` and ``0`` mean as fast as possible and return 0.

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
    raise ValueError(f"{text!r} is not a rate: give events per second, at least 0, or 'max'")


def main(dsn: str | None = None, rate: float | None = None, plain: bool | None = None) -> int:
    """Run the demo. Return exit status 0 if the database and the file agree, else 1.

    :param dsn: the database to run in; None starts an embedded server for the demo.
    :param rate: events per second; 0 means as fast as possible, None means `DEFAULT_RATE`.
    :param plain: plain lines instead of a live display; None uses them without a terminal.
    :returns: after a signal, 128 plus its number, like a shell.
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
                view.say("stopped early; all processes have ended")
            return signals.exit_status
        except PgqueError as error:
            print(f"pgque: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        except OSError as error:
            if signals.received is None and not isinstance(error, BrokenPipeError):
                raise
            # The reader has gone. Without this, Python's flush at exit would report it again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return signals.exit_status if signals.received else 1
