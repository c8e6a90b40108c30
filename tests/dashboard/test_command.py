"""`pgque dashboard`, as a separate process."""

import json
import signal
import socket
import subprocess

import httpx
import pytest
from psycopg.conninfo import make_conninfo

from pgque.cli.app import run
from tests.dashboard.conftest import TOKEN
from tests.fix_cli import CHECKOUT, cli, command, environment, failed
from tests.running import PATIENCE


@pytest.fixture
def start(dsn):
    started = []

    def start(*arguments, **env):
        process = subprocess.Popen(
            command("dashboard", "--dsn", dsn, "--port", "0", *arguments),
            cwd=CHECKOUT,
            env=environment(PYTHONUNBUFFERED="1", **env),
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        for line in process.stderr:
            if line.startswith("The dashboard is at "):
                return process, line.split()[-1]
        raise AssertionError("the dashboard did not start")

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_dashboard_stops_on_a_signal_even_with_an_open_stream(start, how):
    process, url = start()
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        assert "<title>pgque</title>" in client.get("/").text
        assert client.post("/api/purge", json={}).json()["code"] == "read-only"
        with client.stream("GET", "/api/stream") as answer:
            lines = answer.iter_lines()
            line = next(line for line in lines if line.startswith("data: "))
            assert json.loads(line.removeprefix("data: "))["state"] in {"waiting", "live"}
            process.send_signal(how)
            for _ in lines:
                pass
    assert process.wait(PATIENCE) == 0
    assert "Traceback" not in process.stderr.read()


def test_the_token_can_be_set_in_the_environment(start):
    _, url = start("--private", "--allow-host", "dash.test", PGQUE_DASHBOARD_TOKEN=TOKEN)
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        assert client.get("/api/about", headers={"Host": "dash.test"}).status_code == 403
        headers = {"Host": "dash.test", "X-Pgque-Token": TOKEN}
        assert client.get("/api/about", headers=headers).json()["changes"]
        assert client.get("/", headers={"Host": "other.test"}).status_code == 421


@pytest.fixture
def fails(capsys):
    """Run the command and return its one line of error."""

    def fails(dsn, *arguments):
        assert run(["dashboard", "--dsn", dsn, *arguments]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        [line] = err.splitlines()
        return line

    return fails


def test_a_port_in_use_is_reported(fails, dsn):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails(dsn, "--port", str(port))
    assert line == f"pgque: cannot listen on 127.0.0.1, port {port}: Address already in use"


def test_a_missing_server_schema_or_right_is_reported_at_once(fails, empty_dsn, dsn, new_role):
    assert "/nowhere" in fails("host=/nowhere")
    assert "pgque install" in fails(empty_dsn)
    assert "pgque_reader" in fails(make_conninfo(dsn, user=new_role()))


def test_a_bad_token_is_reported(fails, dsn):
    assert "16 or more" in fails(dsn, "--token", "short")
    assert "private needs a token" in fails(dsn, "--private")


def test_listening_on_every_address_requires_a_host_name(fails, dsn):
    assert "--allow-host NAME" in fails(dsn, "--host", "0.0.0.0")


def test_a_missing_extra_is_named(dsn, tmp_path):
    (tmp_path / "starlette.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'starlette'\", name='starlette')"
    )
    done = cli("dashboard", "--dsn", dsn, PYTHONPATH=str(tmp_path))
    assert failed(done) == "pgque: starlette is missing: pip install 'pgque[web]'"
