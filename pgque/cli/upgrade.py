"""`pgque upgrade`."""

from __future__ import annotations

import typer

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_json


def command(dsn: Dsn, as_json: AsJson = False) -> None:
    """Upgrade the schema to this client's version, while producers and consumers run.

    The schema must exist. If it already has this client's version, the command does nothing;
    `pgque install` restores the functions of the same release.
    """
    from pgque.install import upgrade

    done = upgrade(dsn)
    if as_json:
        print_json(
            {
                "changed": done.changed,
                "from": {"schema": done.before.schema, "release": done.before.release},
                "to": {"schema": done.after.schema, "release": done.after.release},
            }
        )
    elif done.changed:
        typer.echo(f"The schema pgque was upgraded from {done.before} to {done.after}.")
    else:
        typer.echo(f"The schema pgque is up to date: {done.after}.")
