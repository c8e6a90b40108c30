"""One server for several processes, such as the workers of pytest-xdist.

The first of them starts it in a process of its own, and it stops after the last has ended, however
that ended: each holds a lock on a file for as long, and the server's process waits for the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pgque
from pgque.embedded import EmbeddedError
from pgque.errors import PgqueError
from pgque.testing.server import find_server

_PACKAGES: Final = Path(pgque.__file__).resolve().parent.parent


@contextlib.contextmanager
def shared_server(folder: Path) -> Iterator[str]:
    """Lend the server of all processes that name this folder: a superuser's connection string.

    It is found as `find_server` does. Raises `pgque.embedded.EmbeddedError` where none can be had.
    """
    files = _Files(folder)
    with files.users.open("a") as users:
        with files.lock.open("a") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is about to stop
            if not files.dsn.exists():
                _start(files)
        yield files.dsn.read_text(encoding="utf-8")


class _Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "pgque-server.lock"
        self.users = folder / "pgque-server.users"
        self.dsn = folder / "pgque-server.dsn"
        self.log = folder / "pgque-server.log"


def _start(files: _Files) -> None:
    command = [sys.executable, "-c", _SERVE, str(_PACKAGES), str(files.folder)]
    with files.log.open("w") as log:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        ).returncode
    if status != 0:
        said = files.log.read_text(encoding="utf-8", errors="replace").strip()
        raise EmbeddedError(said or f"the process of the server ended with status {status}")


# Not "-m", which looks for modules in the project's folder first: a project may have a queue.py.
_SERVE: Final = """
import sys
sys.path = [*filter(None, sys.path), sys.argv[1]]
from pgque.testing.shared import serve
sys.exit(serve(sys.argv[2]))
"""


def serve(folder: str) -> int:
    """Start a server in a process of its own, and return when it can be used: 0, or 1."""
    files = _Files(Path(folder))
    ready, tell = os.pipe()
    if os.fork() > 0:
        os.close(tell)
        return 0 if os.read(ready, 1) else 1
    os.close(ready)
    os.setsid()  # Ctrl-C is for the tests, which use the server to their end
    try:
        _serve(files, lambda: os.write(tell, b"!"))
    except PgqueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _serve(files: _Files, tell: Callable[[], object]) -> None:
    """Run a server until nobody uses it any more."""
    with files.users.open("a") as users, find_server() as dsn:
        files.dsn.write_text(dsn, encoding="utf-8")
        try:
            tell()
            fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            files.dsn.unlink()
