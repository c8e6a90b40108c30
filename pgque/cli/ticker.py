"""`pgque ticker`."""

from __future__ import annotations

from pgque.cli.options import Dsn, log_to_stderr


def command(dsn: Dsn) -> None:
    """Tick, retry and maintain all queues of a database, until stopped.

    Several may run: one leads, and another takes over after its end.
    """
    from pgque.ticker import Ticker

    log_to_stderr()
    Ticker(dsn).run()
