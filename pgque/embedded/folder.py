"""The data folder of an embedded server: its layout, its lock, and conflicts with other servers.

It contains `lock`, held while one of our servers runs here; `log`, PostgreSQL's output since the
last start; `data`, the cluster; and `socket`, where clients connect.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pgque.embedded.binaries import MISSING_EXTRA, Account, EmbeddedError

LONGEST_SOCKET_PATH = 103
"""Maximum bytes in a Unix socket's path on macOS, the most restrictive platform."""


def default_data_dir() -> Path:
    """Return the data folder of `pgque dev`.

    The account that runs PostgreSQL cannot enter root's home, so root gets a system folder.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/pgque/dev")
    try:
        import platformdirs
    except ModuleNotFoundError as error:
        raise EmbeddedError(MISSING_EXTRA) from error
    return Path(platformdirs.user_data_dir("pgque")) / "dev"


@dataclass(frozen=True)
class Folder:
    """The paths inside one data folder."""

    home: Path

    @property
    def data(self) -> Path:
        """The cluster, `PGDATA`."""
        return self.home / "data"

    @property
    def socket(self) -> Path:
        """The folder of the server's socket; only the server's user may enter it."""
        return self.home / "socket"

    @property
    def log(self) -> Path:
        """The server's log since its last start."""
        return self.home / "log"

    def version(self) -> int | None:
        """Return the major version of the cluster; None if it does not exist yet."""
        try:
            return int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def create(self, account: Account | None) -> None:
        """Create the folder if missing; check that ``account`` can enter it."""
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o711 if account else 0o700)
        except OSError as error:
            raise EmbeddedError(f"cannot create the data folder: {error}") from error
        if account is not None and not account.can_enter(self.home):
            raise EmbeddedError(
                f"PostgreSQL may not run as root, and its own user cannot enter {self.home}: "
                "choose a data folder that others can enter, for example below /var/lib"
            )

    def lock(self) -> int:
        """Take the folder's lock; return the descriptor that holds it.

        Raises `EmbeddedError` if another process runs or starts a server here.
        """
        try:
            descriptor = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedError(f"cannot use the data folder: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise EmbeddedError(
                f"a server already runs in {self.home}: connect to {self.running_dsn()}"
            ) from None
        return descriptor

    def refuse_stranger(self) -> None:
        """Raise if a foreign server, which does not take our lock, runs in the cluster.

        A leftover pid file is removed if its process is not PostgreSQL in this cluster: after a
        crash of the machine, another program may have that pid.
        """
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n")[0])
        except (FileNotFoundError, ValueError):
            return
        if _is_server(pid, self.data):
            raise EmbeddedError(
                f"process {pid} runs PostgreSQL in {self.data}, and pgque did not start it: "
                f"stop it first, with kill -INT {pid}"
            )
        pid_file.unlink(missing_ok=True)

    def fits_socket(self) -> bool:
        """Tell whether the path of a socket in `socket` is short enough."""
        return len(os.fsencode(self.socket / ".s.PGSQL.65535")) <= LONGEST_SOCKET_PATH

    def running_dsn(self) -> str:
        """Return the DSN of the server that runs here, read from its pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().split("\n")
            return make_dsn(socket_dir=lines[4], port=lines[3])
        except (OSError, IndexError):
            return "it in a moment, because it is starting or stopping"

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of the log, for an error message."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def make_dsn(socket_dir: str, port: str, dbname: str = "postgres") -> str:
    """Return the superuser's connection string for a socket."""
    host = quote(socket_dir, safe="/")
    return f"postgresql://postgres@/{quote(dbname)}?host={host}&port={port}"


def _is_server(pid: int, data: Path) -> bool:
    import psutil

    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return str(data) in command
