"""One server for several processes, such as the workers of pytest-xdist.

The first process starts the server in a separate process. The server stops after the last user has
ended, even by a crash: each user holds a shared lock on a file, and the server's process waits for
the exclusive lock.
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
    """Lend the server that all processes with this folder share; yield a superuser's DSN.

    The first process uses `find_server`. Raises `pgque.embedded.EmbeddedError` if no server
    is available.
    """
    files = _Files(folder)
    with files.users.open("a") as users:
        with files.lock.open("a") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            fcntl.flock(users, fcntl.LOCK_SH)  # waits for a stopping server
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


# Not "-m", because that searches the project's folder first, and a project may have a queue.py.
_SERVE: Final = """
import sys
sys.path = [*filter(None, sys.path), sys.argv[1]]
from pgque.testing.shared import serve
sys.exit(serve(sys.argv[2]))
"""


def serve(folder: str) -> int:
    """Start a server in a separate process; return 0 once it is ready, or 1 if it failed."""
    files = _Files(Path(folder))
    ready, tell = os.pipe()
    if os.fork() > 0:
        os.close(tell)
        return 0 if os.read(ready, 1) else 1
    os.close(ready)
    os.setsid()  # Ctrl-C must not reach the server before the tests have ended
    try:
        _serve(files, lambda: os.write(tell, b"!"))
    except PgqueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _serve(files: _Files, tell: Callable[[], object]) -> None:
    """Run a server until no process uses it any more."""
    with files.users.open("a") as users, find_server() as dsn:
        files.dsn.write_text(dsn, encoding="utf-8")
        try:
            tell()
            fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            files.dsn.unlink()
