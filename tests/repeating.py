"""Repeats failed tests once, in isolation; PGQUE_REPEAT_FAILED sets the largest number to repeat.

A test that passes then is flaky: the run succeeds and lists it. CI sets the variable, so that one
unlucky minute does not hide a good change and no flaky test goes unnoticed. Collection errors and
crashed workers are never repeated, nor are more failures than the limit.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

LIMIT = "PGQUE_REPEAT_FAILED"
OUTCOMES = "PGQUE_REPEAT_OUTCOMES"
"""The file to which the second run writes how each test ended."""

LIST = "PGQUE_FLAKY_LIST"
"""A file that collects the flaky tests of several runs; the last run shows all of them."""

Reports = list[pytest.TestReport]


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # the controller process does it
        return
    if path := os.environ.get(OUTCOMES):
        config.pluginmanager.register(Outcomes(Path(path)))
    elif limit := os.environ.get(LIMIT):
        config.pluginmanager.register(Repeating(config, int(limit)))


class Outcomes:
    """In the second run: records the tests that passed in all their phases."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._passed: set[str] = set()
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record one phase of a test."""
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the names of the tests that passed."""
        passed = sorted(self._passed - self._failed)
        self._path.write_text(json.dumps(passed), encoding="utf-8")


class Repeating:
    """In the first run: repeats the failed tests in a new process, before the summary."""

    def __init__(self, config: pytest.Config, limit: int) -> None:
        self._config = config
        self._limit = limit
        self._flaky: Reports = []

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        """Repeat the failed tests after the workers have exited; the terminal summary follows."""
        result = yield
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        failures: Reports = [
            report
            for category in ("failed", "error")
            for report in reporter.stats.get(category, [])
        ]
        if exitstatus == pytest.ExitCode.TESTS_FAILED and not session.shouldfail:
            names = list(dict.fromkeys(report.nodeid for report in failures))
            if len(names) > self._limit:
                reporter.write_line("")
                reporter.write_line(f"{len(names)} tests failed: too many to repeat them")
            elif all(map(_can_be_repeated, failures)):
                passed = self._repeat(names, reporter)
                self._flaky = [report for report in failures if report.nodeid in passed]
                _move(self._flaky, reporter)
                if len(self._flaky) == len(failures):
                    session.exitstatus = pytest.ExitCode.OK
        return result

    def _repeat(self, names: list[str], reporter: Any) -> set[str]:
        """Run tests again, one after the other; return the names of the tests that passed."""
        reporter.write_line("")
        reporter.write_sep("=", f"{len(names)} failed: repeating, alone")
        alone = ["-n", "0"] if self._config.pluginmanager.hasplugin("xdist") else []
        with tempfile.TemporaryDirectory() as folder:
            outcomes = Path(folder, "outcomes")
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", *alone, *_plugins(self._config), *names],
                cwd=self._config.rootpath,
                env={**os.environ, OUTCOMES: str(outcomes)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            reporter.write(done.stdout)
            if not outcomes.exists():  # the second run crashed
                return set()
            return set(json.loads(outcomes.read_text(encoding="utf-8")))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the first failures of the flaky tests, then list them, also from earlier runs."""
        if self._flaky:
            title = "FLAKY: failed, and passed when repeated alone"
            terminalreporter.section(title, "=", yellow=True)
        for report in self._flaky:
            terminalreporter.write_sep("_", f"{report.nodeid} ({report.when})")
            terminalreporter._outrep_summary(report)
        for line in self._all_runs(dict.fromkeys(report.nodeid for report in self._flaky)):
            terminalreporter.write_line(line, yellow=True)

    def _all_runs(self, names: Iterable[str]) -> list[str]:
        """Return a line for each flaky test, including tests from earlier runs that left a file."""
        now = [f"flaky: {name}" for name in names]
        if LIST not in os.environ:
            return now
        path = Path(os.environ[LIST])
        before = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.write_text("".join(f"{line}\n" for line in [*before, *now]), encoding="utf-8")
        return [*(f"in an earlier run: {line}" for line in before), *now]


def _can_be_repeated(report: pytest.TestReport) -> bool:
    """Return whether this is a failed test rather than a collection error or a crashed worker."""
    return isinstance(report, pytest.TestReport) and report.when in {"setup", "call", "teardown"}


def _plugins(config: pytest.Config) -> list[str]:
    """Return the options that load this run's plugins again."""
    return [part for plugin in config.option.plugins for part in ("-p", plugin)]


def _move(flaky: Reports, reporter: Any) -> None:
    """Count reports as flaky, a separate category in the closing line."""
    for category in ("failed", "error"):
        left = [report for report in reporter.stats.pop(category, []) if report not in flaky]
        if left:
            reporter.stats[category] = left
    if flaky:
        reporter._add_stats("flaky", flaky)
