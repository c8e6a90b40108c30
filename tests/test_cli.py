"""The command line: each command in a separate process, as a user runs it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgque.cli import app
from pgque.install import SCHEMA_VERSION, schema_version, script
from tests.fix_cli import CHECKOUT, cli, command, environment, failed
from tests.running import PATIENCE, eventually


@pytest.fixture
def running() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start long-running commands; all of them are stopped at the end."""
    started = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(*arguments),
            cwd=CHECKOUT,
            env=environment(PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_help_lists_every_command() -> None:
    done = cli("--help")
    assert done.returncode == 0
    for name in ("demo", "dev", "install", "uninstall", "sql", "version", "ticker"):
        assert f" {name} " in done.stdout


def test_without_a_command_the_help_is_shown() -> None:
    done = cli()
    assert done.returncode == 2
    assert "Usage: pgque" in done.stdout + done.stderr


def test_install_and_uninstall(empty_dsn: str) -> None:
    for _ in range(2):
        done = cli("install", "--dsn", empty_dsn)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"The schema pgque is installed, version {SCHEMA_VERSION}.\n"
    assert schema_version(empty_dsn) == SCHEMA_VERSION
    done = cli("uninstall", "--dsn", empty_dsn, "--yes")
    assert (done.returncode, done.stdout) == (0, "The schema pgque was dropped.\n")
    assert schema_version(empty_dsn) is None
    done = cli("uninstall", "--yes", PGQUE_DSN=empty_dsn)
    assert (done.returncode, done.stdout) == (0, "There is no schema pgque.\n")


def test_upgrade_prints_the_old_and_the_new_version(dsn: str, autoconn: psycopg.Connection) -> None:
    now = f"version {SCHEMA_VERSION} (pgque 0.1.0)"
    done = cli("upgrade", "--dsn", dsn)
    assert (done.returncode, done.stdout) == (0, f"The schema pgque is up to date: {now}.\n")
    release = (
        "create or replace function pgque.version() returns text language sql as $$select '{}'$$"
    )
    autoconn.execute(release.format("0.0.9").encode())
    done = cli("upgrade", "--dsn", dsn, "--json")
    assert json.loads(done.stdout) == {
        "changed": True,
        "from": {"schema": SCHEMA_VERSION, "release": "0.0.9"},
        "to": {"schema": SCHEMA_VERSION, "release": "0.1.0"},
    }
    assert "up to date" in cli("upgrade", "--dsn", dsn).stdout
    autoconn.execute(release.format("0.10.0").encode())
    assert "upgrade the Python package" in failed(cli("upgrade", "--dsn", dsn))


def test_upgrade_fails_without_a_schema(empty_dsn: str) -> None:
    line = failed(cli("upgrade", "--dsn", empty_dsn))
    assert "the database pgque_test_" in line
    assert "has no schema pgque to upgrade" in line
    assert schema_version(empty_dsn) is None


@pytest.mark.parametrize(("answer", "status"), [("n\n", 1), ("", 1), ("y\n", 0)])
def test_uninstall_asks_for_confirmation(dsn: str, answer: str, status: int) -> None:
    done = cli("uninstall", "--dsn", dsn, stdin=answer)
    assert done.returncode == status
    assert "Drop pgque and all its events from the database pgque_test_" in done.stdout
    assert (schema_version(dsn) is None) == (status == 0)


def test_sql_prints_only_the_script() -> None:
    done = cli("sql")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == script()


def test_version_prints_the_versions() -> None:
    done = cli("version")
    assert done.returncode == 0
    assert done.stdout == f"client  0.1.0, for schema version {SCHEMA_VERSION}\n"


def test_version_prints_the_versions_of_a_database(dsn: str, empty_dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        major = conn.info.server_version // 10_000
    client, schema, server = cli("version", "--dsn", dsn).stdout.splitlines()
    assert client.startswith("client  0.1.0")
    assert schema == f"schema  {SCHEMA_VERSION}"
    assert server.startswith(f"server  PostgreSQL {major}.")
    assert "schema  not installed" in cli("version", "--dsn", empty_dsn).stdout


def test_version_is_also_an_option_with_a_short_form() -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "pgque 0.1.0\n", "")


@pytest.mark.parametrize("name", ["install", "ticker", "queue list", "dead show 1", "top"])
def test_without_a_database_the_error_says_how_to_name_or_start_one(name: str) -> None:
    assert failed(cli(*name.split()), 2) == (
        "pgque: no database given: pass --dsn or set PGQUE_DSN; `pgque dev` starts one to try "
        f"(pgque {name.removesuffix(' 1')} --help)"
    )


def test_an_unreachable_server_is_one_line_of_error() -> None:
    assert "/nowhere" in failed(cli("install", "--dsn", "host=/nowhere"))


def test_an_invalid_dsn_is_one_line_of_error() -> None:
    failed(cli("install", "--dsn", "no such thing"))


def test_install_without_the_right_is_one_line_of_error(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create role pgque_test_guest login")
        conn.commit()
        try:
            dsn = make_conninfo(empty_dsn, user="pgque_test_guest")
            assert "grant create on database" in failed(cli("install", "--dsn", dsn))
        finally:
            conn.execute("drop role pgque_test_guest")


def test_debug_shows_the_traceback() -> None:
    done = cli("--debug", "install", "--dsn", "host=/nowhere")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "PgqueConnectionError" in done.stderr


def test_an_internal_error_mentions_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pgque.install.script", lambda: 1 / 0)
    assert app.run(["sql"]) == 1
    assert capsys.readouterr().err == (
        "pgque: ZeroDivisionError: division by zero (`pgque --debug …` shows where)\n"
    )
    with pytest.raises(ZeroDivisionError):
        app.run(["--debug", "sql"])


def test_a_missing_typer_names_the_cli_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; from pgque.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "version"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert "typer is missing: pip install 'pgque[cli]'" in failed(done)


def test_dev_runs_until_ctrl_c(home: Path, running: Callable[..., subprocess.Popen[str]]) -> None:
    process = running("dev", "--data", str(home))
    exported = next(line.strip() for line in process.stdout if "postgresql://" in line)
    dsn = exported.removeprefix("export PGQUE_DSN='").removesuffix("'")
    assert exported == f"export PGQUE_DSN='{dsn}'"  # quoted, because of the "&"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select pgque.create_queue('kept')")
        conn.execute("select pgque.subscribe('kept', 'reader')")
        conn.execute("select pgque.send('kept', 'hello'::text)")
        receive = "select payload from pgque.receive('kept', 'reader')"
        eventually(lambda: conn.execute(receive).fetchall() == [("hello",)])
    second = cli("dev", "--data", str(home))
    assert (second.returncode, second.stdout) == (1, "Starting PostgreSQL.\n")
    assert dsn in second.stderr
    assert len(second.stderr.splitlines()) == 1
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert output.strip() == "Stopping."
    assert not (home / "data" / "postmaster.pid").exists()

    process = running("dev", "--data", str(home))
    assert next(line.strip() for line in process.stdout if "postgresql://" in line) == exported
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select queue_name from pgque.queue").fetchall() == [("kept",)]
    process.terminate()
    process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0


def test_dev_without_the_embedded_extra_names_it(home: Path) -> None:
    code = (
        "import importlib.util, sys; from pgque.embedded import binaries;"
        "binaries.importlib.util.find_spec = lambda name: None; from pgque.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "dev", "--data", str(home)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "pgque: the embedded server needs an extra: pip install 'pgque[embedded]'\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ticker_ticks_until_stopped(
    dsn: str,
    autoconn: psycopg.Connection,
    queue: str,
    consumer: str,
    number: int,
    running: Callable[..., subprocess.Popen[str]],
) -> None:
    process = running("ticker", "--dsn", dsn)
    autoconn.execute("select pgque.send(%s, 'hello'::text)", [queue])
    receive = "select payload from pgque.receive(%s, %s)"
    eventually(lambda: autoconn.execute(receive, [queue, consumer]).fetchall() == [("hello",)])
    process.send_signal(number)
    _, errors = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_ticker_without_the_schema_fails(empty_dsn: str) -> None:
    assert "pgque install" in failed(cli("ticker", "--dsn", empty_dsn))
