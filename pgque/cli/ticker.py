"""`pgque ticker`."""

from __future__ import annotations

from pgque.cli.options import Dsn, log_to_stderr


def command(dsn: Dsn) -> None:
    """Tick all queues of a database, requeue retries and run maintenance, until stopped.

    You can run several: one leads, and another takes over when it ends.
    """
    from pgque.ticker import Ticker

    log_to_stderr()
    Ticker(dsn).run()
