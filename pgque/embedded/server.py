"""One embedded PostgreSQL server: start, stop, restart."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from pgque.embedded.binaries import Account, Binaries, EmbeddedError, find_account, find_binaries
from pgque.embedded.folder import Folder, make_dsn

if TYPE_CHECKING:
    from typing_extensions import Self

NEWEST = 18
KEEPER = Path(__file__).with_name("keeper.py")
Setting = str | int | float | bool
SYSTEM_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 (mkdtemp creates a private folder there)
QUIET: Mapping[str, Setting] = {"listen_addresses": "", "log_checkpoints": False, "port": 5432}
"""Default settings of every embedded server."""


class Server:
    """A PostgreSQL server that ends with this process.

    ``data_dir`` is the folder that keeps the data; without it the data are in a temporary folder
    that is removed at the end. ``version`` is 16 or 18; the default is the version of an existing
    cluster, or 18 for a new one. ``settings`` are PostgreSQL's settings by name; they override the
    configuration file. ``start_timeout`` is in seconds and includes creating a new cluster.
    ``temporary_in`` is the parent folder for temporary folders, instead of the system's default. It
    is not used if this program runs as root and PostgreSQL's user cannot enter it.

    Use it as a context manager, or call `start` and `stop`. As root, PostgreSQL runs under the
    system user ``pgserver``, which is added if missing.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        version: int | None = None,
        settings: Mapping[str, Setting] | None = None,
        start_timeout: float = 60,
        temporary_in: str | os.PathLike[str] | None = None,
    ) -> None:
        if os.name != "posix":
            raise EmbeddedError("the embedded server needs Linux or macOS")
        self._data_dir = None if data_dir is None else Path(data_dir).expanduser().resolve()
        self._wanted_version = version
        self._settings = {**QUIET, **(settings or {})}
        self._start_timeout = start_timeout
        self._temporary_in = temporary_in
        self._guard = threading.RLock()
        self._owner = os.getpid()
        self._folder: Folder | None = None
        self._temporary: list[str] = []
        self._socket_dir: Path | None = None
        self._binaries: Binaries | None = None
        self._programs: Path | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the server and wait until it accepts connections; do nothing if it runs.

        Raises `EmbeddedError` if another server runs in the folder, if the cluster has another
        version or if PostgreSQL does not start; then the message has the last lines of the log.
        """
        with self._guard:
            if not self.running:
                try:
                    self._start()
                except BaseException:
                    self.stop()
                    raise
                atexit.register(self.stop)
            return self

    def stop(self) -> None:
        """Stop the server, wait until all its processes have ended, remove a temporary folder.

        Does nothing if the server does not run, and in a fork of the process that started it.
        """
        with self._guard:
            if os.getpid() != self._owner:
                return
            self._end(b"s")
            # The keeper has removed these, unless it never ran.
            for path in self._temporary:
                shutil.rmtree(path, ignore_errors=True)
            self._temporary = []
            self._folder = self._programs = self._socket_dir = None

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server and start it again on the same data.

        ``immediate`` stops it like a crash: sessions are cut off, and the next start recovers.
        """
        with self._guard:
            self._end(b"i" if mode == "immediate" else b"r")
            self.start()

    @property
    def running(self) -> bool:
        """Whether the server was started and has not been stopped by `stop`."""
        return self._keeper is not None

    @property
    def dsn(self) -> str:
        """The superuser's connection string, to the database ``postgres``."""
        return self.dsn_for("postgres")

    def dsn_for(self, dbname: str) -> str:
        """Return the superuser's connection string to another database."""
        self._started_folder()
        return make_dsn(str(self._socket_dir), str(self._settings["port"]), dbname)

    @property
    def data_dir(self) -> Path:
        """The data folder: the given one, or a temporary one."""
        return self._started_folder().home

    @property
    def bin_dir(self) -> Path:
        """The folder with ``psql``, ``pg_dump`` and the other programs of this version."""
        self._started_folder()
        assert self._binaries is not None
        return self._binaries.bin

    def _started_folder(self) -> Folder:
        if self._folder is None:
            raise EmbeddedError("the embedded server was not started: call start()")
        return self._folder

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        account = find_account()
        folder = self._folder = self._folder or self._make_folder(account)
        lock = folder.lock()
        try:
            folder.refuse_stranger()
            self._binaries = find_binaries(self._version(folder))
            plan = self._plan(folder, account)
            # From here on only the keeper holds the lock and its end of the pipe.
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
                pass_fds=[lock],
                start_new_session=True,
            )
        finally:
            os.close(lock)
        self._await_ready(self._keeper, folder)

    def _make_folder(self, account: Account | None) -> Folder:
        if self._data_dir is None:
            folder = Folder(self._make_temporary(account))
        else:
            folder = Folder(self._data_dir)
        folder.create(account)
        return folder

    def _make_temporary(self, account: Account | None) -> Path:
        """Create a temporary folder that the account can enter; root's default may be private."""
        for place in (self._temporary_in, *SYSTEM_TEMPORARY):
            path = tempfile.mkdtemp(prefix="pgque-", dir=place)
            if account is None:
                break
            os.chmod(path, 0o711)
            if account.can_enter(Path(path)):
                break
            os.rmdir(path)
        else:
            raise EmbeddedError(
                f"the user that runs PostgreSQL cannot enter any temporary folder: {path}"
            )
        self._temporary.append(path)
        return Path(path)

    def _version(self, folder: Folder) -> int:
        found, wanted = folder.version(), self._wanted_version
        if found and wanted and found != wanted:
            raise EmbeddedError(
                f"the data in {folder.home} are from PostgreSQL {found}, not {wanted}: "
                "omit the version or choose another folder"
            )
        return found or wanted or NEWEST

    def _plan(self, folder: Folder, account: Account | None) -> dict[str, Any]:
        """Return the keeper's tasks as JSON-compatible data."""
        copy = self._place_programs(account)
        self._place_socket(folder, account)
        settings = {**self._settings, "unix_socket_directories": str(self._socket_dir)}
        programs = self._programs
        assert programs is not None
        unfinished = f"{folder.data}.unfinished"
        initdb = [str(programs / "initdb"), "--pgdata", unfinished, "--username=postgres"]
        initdb += ["--encoding=UTF8", "--no-locale", "--no-instructions"]
        initdb += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        if _text(settings.get("fsync", True)) == "off":
            initdb.append("--no-sync")
        server = [str(programs / "postgres"), "-D", str(folder.data)]
        for name, value in settings.items():
            server += ["-c", f"{name}={_text(value)}"]
        return {
            "master": os.getpid(),
            "account": account and (account.uid, account.gid),
            "data": str(folder.data),
            "unfinished": unfinished,
            "log": str(folder.log),
            "copy": copy,
            "initdb": None if folder.version() else initdb,
            "server": server,
            "temporary": self._temporary,
        }

    def _place_programs(self, account: Account | None) -> list[tuple[str, str]]:
        """Decide which programs to run; return the folders to copy for that.

        A wheel below root's home is copied, instead of making root's home accessible.
        """
        assert self._binaries is not None
        if self._programs is not None:
            return []
        if self._binaries.run_as(account):
            self._programs = self._binaries.bin
            return []
        if account is None:
            raise EmbeddedError(f"the programs in {self._binaries.bin} do not run here")
        target = self._make_temporary(account)
        source = self._binaries.package.parent
        self._programs = target / self._binaries.bin.relative_to(source)
        return [(str(source / part), str(target / part)) for part in self._binaries.parts()]

    def _place_socket(self, folder: Folder, account: Account | None) -> None:
        """Create the socket's folder: next to the data, or elsewhere if the path is too long."""
        if self._socket_dir is None:
            self._socket_dir = (
                folder.socket if folder.fits_socket() else self._make_temporary(account)
            )
        # After a crash, a leftover lock file in it may have the pid of another program.
        shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._socket_dir.mkdir(mode=0o700)
        if account is not None:
            os.chown(self._socket_dir, account.uid, account.gid)

    def _await_ready(self, keeper: subprocess.Popen[bytes], folder: Folder) -> None:
        assert keeper.stdout is not None
        readable, _, _ = select.select([keeper.stdout], [], [], self._start_timeout)
        word = keeper.stdout.readline() if readable else b""
        if word == b"ready\n":
            return
        what = "PostgreSQL did not start" if readable else "PostgreSQL took too long to start"
        raise EmbeddedError(f"{what}; the end of its log:\n{folder.log_tail()}")

    def _end(self, order: bytes) -> None:
        if self._keeper is not None:
            running, self._keeper = self._keeper, None
            assert running.stdin is not None
            assert running.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                running.stdin.write(order)
                running.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                running.stdin.close()
            running.stdout.close()
            running.wait()
            atexit.unregister(self.stop)


def _text(value: Setting) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
