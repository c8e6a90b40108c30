"""The last lines of the demo: commands that work in the user's shell."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pgque.demo.next import next_steps
from tests.fix_cli import CHECKOUT, environment
from tests.running import PATIENCE

Call = Callable[[str], None]


def commands(dsn: str | None = None) -> list[str]:
    lines = [line.strip() for line in next_steps(dsn)]
    assert lines[:2] == ["", "Next:"]
    return [line.partition("  ")[0] for line in lines[2:] if "  " in line]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The console script in a virtual environment in the current folder, as pip makes it."""
    path = tmp_path / "my env" / "bin" / "pgque"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c 'import sys; "
        'from pgque.cli import main; sys.argv[0] = "pgque"; main()\' "$@"\n'
    )
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    return path


def works(command: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{command} --help"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, ""), command


@pytest.mark.parametrize("absolute", [False, True])
def test_a_script_in_an_inactive_environment_is_named_by_its_path(
    script: Path, absolute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script) if absolute else "my env/bin/pgque", "demo"])
    first, *_, last = commands()
    assert first == "'my env/bin/pgque' dev"
    assert last == "'my env/bin/pgque' --help"
    works(first)


def test_a_script_on_the_path_is_named_without_folder(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "demo"])
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    first, *_ = commands()
    assert first == "pgque dev"
    works(first)


def test_the_module_is_named_with_python_m(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(CHECKOUT / "pgque" / "__main__.py"), "demo"])
    monkeypatch.chdir(CHECKOUT)
    first, *_ = commands()
    assert first.endswith(" -m pgque dev")
    works(first)
    assert any("docs/tutorial.md" in line for line in next_steps(None))


def test_commands_for_a_given_database_hide_its_password(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "demo"])
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    dsn = "postgresql://ann:secret@db/shop"
    monkeypatch.delenv("PGQUE_DSN", raising=False)
    assert commands(dsn)[0] == "pgque doctor --dsn …"
    monkeypatch.setenv("PGQUE_DSN", dsn)
    assert commands(dsn)[:2] == ["pgque doctor", "pgque queue create orders"]
    assert "secret" not in "".join(next_steps(dsn))
