"""README.md: its commands come first, and its samples work in real projects."""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.projects import FILES, make_project
from tests.samples import ROOT, reader, steps, to_url

README = ROOT / "README.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path, FILES)
    return tmp_path


def test_samples_of_the_readme_run(
    project: Path, home: Path, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reader(project, home, monkeypatch, to_url(empty_dsn)) as newcomer:
        newcomer.read(README)
        # The migrations can also be reverted.
        for command in ("-m alembic downgrade 0001", "manage.py migrate shop 0001 --verbosity 0"):
            subprocess.run([sys.executable, *command.split()], env=newcomer.env, check=True)
    with psycopg.connect(empty_dsn) as conn:
        consumers = conn.execute("select consumer_name from pgque.get_consumer_info('orders')")
        assert consumers.fetchall() == [("shipping",)]


def test_the_two_commands_come_first() -> None:
    first, second, *_ = (step for step in steps(README) if step.language)
    assert first.language == second.language == "sh"
    assert first.text.count("\n") == second.text.count("\n") == 1
    assert first.text.endswith(".venv/bin/pgque demo\n")
    assert second.text.endswith(".venv/bin/pytest\n")


def test_ci_runs_the_two_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_block 1" in script
    assert "readme_block 2" in script


def test_the_first_ten_lines_say_what_pgque_is() -> None:
    head = README.read_text().split("\n## ", 1)[0]
    lines = [line for line in head.splitlines()[1:] if line]
    assert len(lines) <= 10
