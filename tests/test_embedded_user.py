"""The embedded server for a user who is not root, wherever the clone is."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgque.embedded import binaries
from tests.test_embedded import CHECKOUT, needs_root, servers_in


def python_for(person: pwd.struct_passwd) -> str:
    """Find an interpreter of this version that `person` may run; root's own may be closed."""
    minor = f"python3.{sys.version_info.minor}"
    account = binaries.Account(person.pw_uid, person.pw_gid)
    for python in (sys.executable, shutil.which(minor, path="/usr/local/bin:/usr/bin")):
        if python and account.can_run([python, "-c", "import sys"]):
            return python
    pytest.skip(f"no {minor} that {person.pw_name} may run")


def packages_for_anybody(target: Path) -> Path:
    """Copy pgque and the embedded server's packages, because others may not read the clone."""
    wheel = binaries.find_binaries(18)
    places = [wheel.package.parent / part for part in wheel.parts()]
    places += [wheel.package / "__init__.py", CHECKOUT / "pgque"]
    psycopg_parts = ("psycopg", "psycopg_binary", "psycopg_pool")
    for name in (*psycopg_parts, "psutil", "platformdirs", "typing_extensions"):
        spec = importlib.util.find_spec(name)
        path = Path(spec.origin)
        places.append(path.parent if path.name == "__init__.py" else path)
        libraries = path.parent.parent / f"{name}.libs"
        places += [libraries] if libraries.is_dir() else []
    for place in places:
        inside = place.relative_to(wheel.package.parent) if wheel.package in place.parents else None
        copy = target / (inside or place.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.copytree(place, copy, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(place, copy)
    return target


@needs_root
def test_an_ordinary_user_can_run_the_embedded_server(home: Path) -> None:
    person = pwd.getpwnam("nobody")
    packages = packages_for_anybody(home / "packages")
    os.chown(home, person.pw_uid, person.pw_gid)
    code = """
import os, sys
sys.path[:0] = sys.argv[2:]
import psycopg
import pgque
from pgque.embedded import Server
assert pgque.__file__.startswith(sys.argv[2]), pgque.__file__
with Server(sys.argv[1], settings={"fsync": "off"}) as server, psycopg.connect(server.dsn) as conn:
    print(os.geteuid(), conn.execute("select 1").fetchone()[0])
"""
    done = subprocess.run(
        [python_for(person), "-c", code, str(home / "data"), str(packages)],
        user=person.pw_uid,
        group=person.pw_gid,
        extra_groups=[],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(person.pw_uid), "1"]
    assert not servers_in(home)
