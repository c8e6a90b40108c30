"""Write the pages of the reference: `python docs/make_reference.py`.

The SQL reference is made from the catalog of an installed schema. `--dsn` selects a database with
pgque installed. Without it, the script starts an embedded server.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import psycopg
from reference_cli import FILES, cli_reference
from reference_python import python_reference
from reference_sql import sql_reference

import pgque
from pgque import embedded
from pgque.install import install

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write all pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn")
    dsn = parser.parse_args().dsn
    (HERE / "reference-python.md").write_text(python_reference(), encoding="utf-8")
    if dsn is not None:
        write_sql(dsn)
        return
    with embedded.Server() as server:
        install(server.dsn)
        write_sql(server.dsn)
        write_cli(server.dsn)


def write_sql(dsn: str) -> None:
    """Write the page about SQL from the schema of a database."""
    with psycopg.connect(dsn) as conn:
        (HERE / "reference-sql.md").write_text(sql_reference(conn), encoding="utf-8")


def write_cli(dsn: str) -> None:
    """Write the page about the command line from its output, in a database without queues."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # for the account that runs PostgreSQL for root
        os.chdir(folder)
        for name, text in FILES.items():
            Path(name).write_text(text, encoding="utf-8")
        page = cli_reference(dsn, lambda: let_die(dsn))
        os.chdir(here)
    (HERE / "reference-cli.md").write_text(page, encoding="utf-8")


def let_die(dsn: str) -> None:
    """Make a dead letter of the first order, for the consumer mailer."""
    with pgque.connect(dsn, autocommit=True) as client:
        client.set_queue_config("orders", "max_retries", 0)
        client.ticker("orders")
        first = client.receive("orders", "mailer")[0]
        client.nack(first.batch_id, first, reason="no such address")
        client.ack(first.batch_id)


if __name__ == "__main__":
    main()
