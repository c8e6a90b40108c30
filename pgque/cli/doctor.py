"""`pgque doctor`."""

from __future__ import annotations

import typer

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_json
from pgque.watching.readable import readable


def command(dsn: Dsn, as_json: AsJson = False) -> None:
    """Look for faults and print the command that fixes each one.

    Exits with 0 if it finds nothing, 1 for warnings, 2 for faults.
    """
    from pgque.doctor import Status, examine

    signs = {Status.OK: "ok     ", Status.WARNING: "WARNING", Status.FAULT: "FAULT  "}
    found = []
    for finding in examine(dsn):
        found.append(finding)
        if not as_json:
            typer.echo(f"{signs[finding.status]}  {finding.check}: {readable(finding.detail)}")
            if finding.mend is not None:
                typer.echo(f"         -> {readable(finding.mend)}")
    if as_json:
        print_json(
            [
                {"check": f.check, "status": f.status.value, "detail": f.detail, "mend": f.mend}
                for f in found
            ]
        )
    statuses = {finding.status for finding in found}
    if Status.FAULT in statuses:
        raise typer.Exit(2)
    if Status.WARNING in statuses:
        raise typer.Exit(1)
