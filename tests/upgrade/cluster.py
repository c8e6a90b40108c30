"""A throw-away cluster, managed through its programs like an administrator does."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg

from pgque.embedded.binaries import find_account, find_binaries
from tests.fix_server import SETTINGS

DEBIAN = Path("/usr/lib/postgresql/15/bin")


def programs(version: int, home: Path) -> Path:
    """Return the folder of a version's programs, or of a copy that the account may run."""
    if version == 15:
        return DEBIAN
    binaries = find_binaries(version)
    if binaries.run_as(find_account()):
        return binaries.bin
    for part in binaries.parts():
        target = home / part
        if not target.exists():
            shutil.copytree(binaries.package.parent / part, target, symlinks=True)
    return home / binaries.bin.relative_to(binaries.package.parent)


class Cluster:
    """A cluster in its own folder: `init` or copy it, `start` it, `stop` it."""

    def __init__(self, version: int, home: Path, name: str) -> None:
        self.programs = programs(version, home)
        self.folder = home / name
        self.folder.mkdir()
        self.data = self.folder / "data"
        self.own(self.folder)
        self.running = False

    def run(self, program: str, *arguments: object) -> str:
        """Run a program as the account that owns the cluster. Return its output."""
        identity: dict[str, Any] = {}
        if account := find_account():
            identity = {"user": account.uid, "group": account.gid, "extra_groups": []}
        log = self.folder / f"{program}.out"  # a file, because a server would keep a pipe open
        with log.open("w+") as out:
            done = subprocess.run(
                [str(self.programs / program), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
                **identity,
            )
            out.seek(0)
            text = out.read()
        assert done.returncode == 0, text
        return text

    def own(self, path: Path) -> None:
        """Give a file to the account that owns the cluster."""
        if account := find_account():
            os.chown(path, account.uid, account.gid)

    def init(self, *options: str) -> "Cluster":
        self.run(
            "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync",
            "--no-locale", *options,
        )  # fmt: skip
        return self

    def start(self, **settings: str) -> "Cluster":
        given = {
            **SETTINGS,
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            **settings,
        }
        options = " ".join(f"-c {name}={value}" for name, value in given.items())
        log = self.folder / "server.log"
        try:
            self.run("pg_ctl", "-D", self.data, "-w", "-t", 60, "-l", log, "-o", options, "start")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()[-3000:]}") from None
        self.running = True
        return self

    def stop(self, mode: str = "fast") -> None:
        if self.running:
            self.run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")
            self.running = False

    def dsn(self, database: str = "postgres") -> str:
        return f"host={self.folder} port=5432 user=postgres dbname={database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(database), autocommit=True)
