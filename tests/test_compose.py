"""docker-compose.yml: the parts that can be checked without a Docker engine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from pgque import Ticker
from pgque.cli.app import app
from tests.running import PATIENCE, eventually, running

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_the_commands_exist(services: dict[str, dict]) -> None:
    known = {command.name for command in app.registered_commands}
    used = [service["command"] for service in services.values() if "command" in service]
    assert {words[1] for words in used if words[0] == "pgque"} == {"install", "ticker"} <= known
    scripts = [Path(words[1]) for words in used if words[0] == "python"]
    assert [ROOT / "docs" / path.relative_to("/") for path in scripts] == [
        ROOT / "docs" / "examples" / "worker.py"
    ]
    assert services["worker"]["volumes"] == ["./docs/examples:/examples:ro"]


def test_the_image_copies_existing_files(services: dict[str, dict]) -> None:
    lines = services["install"]["build"]["dockerfile_inline"].splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert "sql" in copied
    for name in copied:
        assert (ROOT / name).exists()


def test_services_wait_for_their_dependencies(services: dict[str, dict]) -> None:
    assert services["install"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("ticker", "worker"):
        (condition,) = services[name]["depends_on"].values()
        assert condition == {"condition": "service_completed_successfully"}


@pytest.fixture
def worker(dsn: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, ROOT / "docs" / "examples" / "worker.py"],
        cwd=ROOT,
        env={**os.environ, "PGQUE_DSN": dsn, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_the_worker_prints_messages(
    dsn: str, autoconn: psycopg.Connection, worker: subprocess.Popen[str]
) -> None:
    with running(Ticker(dsn)):
        eventually(lambda: autoconn.execute("select from pgque.subscription").rowcount)
        autoconn.execute("select pgque.send('jobs', 'hello')")
        assert worker.stdout.readline() == "default hello\n"
    worker.terminate()
    assert worker.wait(PATIENCE) == 0
