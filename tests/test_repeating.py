"""CI repeats failed tests: what counts as flaky, and what remains a failure."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fix_cli import CHECKOUT
from tests.running import PATIENCE

Run = Callable[..., tuple[int, list[str]]]

FIRST = """
from pathlib import Path

def fails_at_first(name):
    seen = Path(__file__).with_name(f"seen {name}")
    if not seen.exists():
        seen.touch()
        raise AssertionError(f"the first time of {name}")
"""


in_both_ways = pytest.mark.parametrize("suite", ["0", "2"], indirect=True)
"""In pytest's own process, and in workers."""


@pytest.fixture
def suite(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    """Run a suite that repeats its failures; return the status and the output lines."""

    def run(test: str, limit: int = 3) -> tuple[int, list[str]]:
        (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-n 2'\n")
        (tmp_path / "first.py").write_text(FIRST)
        (tmp_path / "test_it.py").write_text(
            f"import os, pytest\nfrom first import fails_at_first\n{textwrap.dedent(test)}"
        )
        (tmp_path / "test_more.py").write_text("def test_right():\n    pass\n")
        ours = ("PYTEST", "PGQUE_REPEAT", "PGQUE_FLAKY")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        plugins = ["-p", "xdist", "-p", "tests.repeating", "-n", getattr(request, "param", "2")]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *plugins],
            cwd=tmp_path,
            env={
                **plain,
                "PGQUE_REPEAT_FAILED": str(limit),
                "PGQUE_FLAKY_LIST": str(tmp_path / "flaky"),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYTHONPATH": str(CHECKOUT),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * PATIENCE,
        )
        return done.returncode, done.stdout.splitlines()

    return run


def closing(lines: list[str]) -> str:
    """The counts of the closing line, which must be the last line."""
    match = re.fullmatch(r"(?:=+ )?(.+) in [\d.]+s(?: =+)?", lines[-1])
    assert match, "\n".join(lines)
    return match[1]


def flaky(lines: list[str]) -> list[str]:
    return [line.removeprefix("flaky: ") for line in lines if line.startswith("flaky: ")]


def test_nothing_is_repeated_if_all_tests_pass(suite: Run) -> None:
    status, lines = suite("def test_one(): pass")
    assert (status, closing(lines)) == (0, "2 passed")
    assert "repeating" not in "\n".join(lines)


@in_both_ways
def test_a_test_that_passes_when_repeated_is_listed_as_flaky(suite: Run) -> None:
    status, lines = suite("def test_one(): fails_at_first('x')")
    assert (status, closing(lines)) == (0, "1 passed, 1 flaky"), "\n".join(lines)
    assert flaky(lines) == ["test_it.py::test_one"]
    assert any("AssertionError: the first time of x" in line for line in lines)
    status, lines = suite("def test_two(): fails_at_first('y')")
    earlier, now = [line for line in lines if "flaky: " in line]
    assert earlier == "in an earlier run: flaky: test_it.py::test_one"
    assert now == "flaky: test_it.py::test_two"


def test_names_with_spaces_brackets_and_colons_can_be_repeated(suite: Run) -> None:
    status, lines = suite("""
        NAMES = ["a b", "[c]", "d::e", "é", "-k", "'\\"$HOME"]

        @pytest.mark.parametrize("name", NAMES)
        def test_one(name):
            fails_at_first(NAMES.index(name))

        class TestClass:
            def test_two(self):
                fails_at_first("class")
    """, limit=7)  # fmt: skip
    assert (status, closing(lines)) == (0, "1 passed, 7 flaky"), "\n".join(lines)
    assert len(flaky(lines)) == 7


@in_both_ways
def test_a_test_that_fails_twice_is_a_failure(suite: Run) -> None:
    status, lines = suite("""
        def test_one(): fails_at_first("x")
        def test_two(): assert 1 == 2
    """)
    assert (status, closing(lines)) == (1, "1 failed, 1 passed, 1 flaky"), "\n".join(lines)
    assert flaky(lines) == ["test_it.py::test_one"]
    assert any(line.startswith("FAILED test_it.py::test_two") for line in lines)


def test_failures_of_setup_and_teardown_are_repeated_too(suite: Run) -> None:
    status, lines = suite("""
        @pytest.fixture
        def early():
            fails_at_first("early")

        @pytest.fixture
        def late():
            yield
            fails_at_first("late")

        def test_one(early): pass
        def test_two(late): pass
    """)
    assert (status, closing(lines)) == (0, "2 passed, 2 flaky"), "\n".join(lines)
    assert sorted(flaky(lines)) == ["test_it.py::test_one", "test_it.py::test_two"]


def test_a_test_skipped_when_repeated_is_a_failure(suite: Run) -> None:
    status, lines = suite("""
        def test_one():
            try:
                fails_at_first("x")
            finally:
                if os.environ.get("PGQUE_REPEAT_OUTCOMES"):
                    pytest.skip("not here")
    """)
    assert (status, closing(lines)) == (1, "1 failed, 1 passed"), "\n".join(lines)


def test_a_file_that_cannot_be_imported_is_a_failure(suite: Run) -> None:
    status, lines = suite("fails_at_first('import')")
    assert (status > 0, flaky(lines)) == (True, []), "\n".join(lines)
    assert "repeating" not in "\n".join(lines)
    closing(lines)


def test_too_many_failures_are_not_repeated(suite: Run) -> None:
    status, lines = suite("""
        @pytest.mark.parametrize("number", range(4))
        def test_one(number):
            fails_at_first(number)
    """)
    assert (status, closing(lines)) == (1, "4 failed, 1 passed"), "\n".join(lines)
    assert "4 tests failed: too many to repeat them" in "\n".join(lines)


def test_a_worker_that_crashes_is_a_failure(suite: Run) -> None:
    status, lines = suite("""
        def test_one():
            try:
                fails_at_first("x")
            except AssertionError:
                os._exit(3)
    """)
    assert (status, flaky(lines)) == (1, []), "\n".join(lines)
    assert closing(lines) == "1 failed, 1 passed"


def test_a_test_that_crashes_when_repeated_is_a_failure(suite: Run) -> None:
    status, lines = suite("""
        def test_one():
            if os.environ.get("PGQUE_REPEAT_OUTCOMES"):
                os._exit(0)
            assert 1 == 2
    """)
    assert (status, closing(lines)) == (1, "1 failed, 1 passed"), "\n".join(lines)


def test_every_ci_run_of_the_tests_repeats_failures() -> None:
    script = (CHECKOUT / ".ci" / "run").read_text()
    assert re.search(r"^export PGQUE_REPEAT_FAILED=\d+$", script, re.MULTILINE)
    assert "tests.repeating" in (CHECKOUT / "tests" / "conftest.py").read_text()
