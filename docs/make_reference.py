"""Write reference-sql.md and reference-python.md: `python docs/make_reference.py`.

The SQL reference comes from the catalog of an installed schema; `--dsn` names a database with
pgque in it, and without it an embedded server is started for the purpose.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import psycopg
from reference_python import python_reference
from reference_sql import sql_reference

from pgque import embedded
from pgque.install import install

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Write both pages."""
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


def write_sql(dsn: str) -> None:
    """Write the page about SQL from what is installed in a database."""
    with psycopg.connect(dsn) as conn:
        (HERE / "reference-sql.md").write_text(sql_reference(conn), encoding="utf-8")


if __name__ == "__main__":
    main()
