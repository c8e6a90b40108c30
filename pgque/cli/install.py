"""`pgque install`."""

from __future__ import annotations

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_done


def command(dsn: Dsn, as_json: AsJson = False) -> None:
    """Install the schema in a database, or upgrade it.

    Needs the right to create a schema, and to create roles if pgque's roles are missing.
    """
    from pgque.install import install

    version = install(dsn)
    print_done(as_json, {"schema": version}, f"The schema pgque is installed, version {version}.")
