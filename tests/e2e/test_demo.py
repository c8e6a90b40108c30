"""The demo as a user runs it: its processes, its output and its exit."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.running import eventually

ROOT = Path(__file__).parents[2]
ROLES = {"ticker", "delays", "gates-1", "gates-2", "audit"}


@dataclass
class Demo:
    """A running demo. A mark in the environment identifies its processes."""

    process: subprocess.Popen[bytes]
    mark: str
    output: Path

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("PGQUE_TEST_MARK") == self.mark:
                    found.append(process)
        return found

    def roles(self) -> set[str]:
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error, IndexError):
                found.add(process.cmdline()[-1])
        return found & ROLES

    def text(self) -> str:
        return self.output.read_text()

    def wait(self) -> int:
        return self.process.wait(120)


@contextlib.contextmanager
def demo(*arguments: str) -> Iterator[Demo]:
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "pgque", "demo", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "PGQUE_TEST_MARK": mark},
                start_new_session=True,
            )
        running = Demo(process, mark, output)
        try:
            yield running
        finally:
            process.kill()
            process.wait()
            for left in running.processes():
                with contextlib.suppress(psutil.Error):
                    left.kill()


def schemas(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as conn:
        rows = conn.execute("select nspname from pg_namespace where nspname ~ '^pgque'")
        return {name for (name,) in rows}


def test_every_flight_is_counted_once(fresh_dsn, monkeypatch):
    with demo("--dsn", fresh_dsn, "--rate", "max") as running:
        status = running.wait()
        text = running.text()
        lines = text.splitlines()
        assert status == 0, text
        assert running.processes() == []
    end = lines.index("Next:") - 2
    table = {line[:14].strip(): line[14:].split()[:3] for line in lines[end - 6 : end - 1]}
    assert table == {
        "sent": ["6,099", "0", "0"],
        "delays": ["6,099", "0", "0"],
        "gates": ["6,099", "0", "0"],
        "audit": ["6,064", "0", "0"],
        "dead letters": ["35", "0", "0"],
    }
    assert lines[end] == "0 lost, 0 counted twice: the database and the file agree"
    assert any("killed with SIGKILL" in line for line in lines)
    assert any("took over the batch" in line for line in lines)
    assert schemas(fresh_dsn) == {"pgque"}
    monkeypatch.syspath_prepend(ROOT / "docs")
    reference = importlib.import_module("reference_cli")
    page = (ROOT / "docs" / "reference-cli.md").read_text()
    call, _, shown = reference.examples(page)["pgque demo"].partition("\n")
    assert call == "$ pgque demo --rate max"
    same = reference.without_what_varies
    assert same(shown) == same(text), "run python docs/make_reference.py"


def test_a_missing_schema_is_installed_and_announced(empty_dsn):
    with demo("--dsn", empty_dsn, "--rate", "1000") as running:
        eventually(lambda: "sent 0/6,099" in running.text(), "the first line")
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait() == 130
        assert "this database has no schema pgque: installing it" in running.text()
    assert schemas(empty_dsn) == {"pgque"}


def test_ctrl_c_leaves_no_process_even_when_pressed_twice():
    with demo("--rate", "500") as running:
        eventually(lambda: running.roles() == ROLES, "a process for each role")
        eventually(lambda: "sent 0/6,099" in running.text(), "the first line")
        for _ in range(2):
            os.killpg(running.process.pid, signal.SIGINT)
            time.sleep(0.1)
        assert running.wait() == 130
        assert running.processes() == []
        assert "all processes have ended" in running.text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_early_signal_leaves_no_process(number):
    with demo() as running:
        eventually(lambda: "starting" in running.text(), "the first line")
        running.process.send_signal(number)
        assert running.wait() == 128 + number
        assert running.processes() == []


def test_a_killed_demo_leaves_no_process():
    with demo("--rate", "500") as running:
        eventually(lambda: running.roles() == ROLES, "a process for each role")
        running.process.kill()
        running.wait()
        eventually(lambda: running.processes() == [], "the end of all processes")


def test_the_death_of_a_process_is_reported(fresh_dsn):
    with demo("--dsn", fresh_dsn, "--rate", "100") as running:
        eventually(lambda: running.roles() == ROLES, "a process for each role")
        for process in running.processes():
            with contextlib.suppress(psutil.Error, IndexError):
                if process.cmdline()[-1] == "audit":
                    process.kill()
        assert running.wait() == 1
        assert "the process audit ended" in running.text()
        assert running.processes() == []
    assert schemas(fresh_dsn) == {"pgque"}


def test_a_second_demo_in_the_same_database_is_refused(fresh_dsn):
    with demo("--dsn", fresh_dsn, "--rate", "100") as first:
        eventually(lambda: first.roles() == ROLES, "a process for each role")
        with demo("--dsn", fresh_dsn) as second:
            assert second.wait() == 1
            assert "another demo is running in this database" in second.text()
        assert first.process.poll() is None
