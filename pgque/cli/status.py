"""`pgque status`."""

from __future__ import annotations

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_json, print_table
from pgque.client import connect


def command(dsn: Dsn, as_json: AsJson = False) -> None:
    """Print the installed versions, the ticker's state, the schedule and the number of queues."""
    with connect(dsn, autocommit=True) as client:
        found = client.conn.execute("select component, status, detail from pgque.status()")
        rows = [dict(zip(("component", "status", "detail"), row, strict=True)) for row in found]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, empty="No status.")
