"""Reads a document the way its reader does: runs every sample in it, from top to bottom.

A fenced block is run according to its language: python in one namespace per document, sql in one
psql session, sh in bash. A text block after one of these is the expected output; ``...`` matches
anything. HTML comments before a block or between blocks say what the prose tells a reader to do:

    file: NAME          the block is the content of that file
    background          the command keeps running; the text after it appears sooner or later
    with: ARGUMENTS     appended to the command; {home} is a folder for data
    prints: COMMAND     the text is the next output of that background command
    not run: REASON     the reason is one of the keys of NOT_RUN
    stop: COMMAND       Ctrl-C; the command must exit with status 0
    kill: COMMAND       kill -9
    check: SQL          must become true
"""

import configparser
import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
import yaml

import pgque
from pgque import embedded
from pgque.dsn import to_url
from pgque.embedded.binaries import find_binaries
from tests.fix_server import wanted_version
from tests.running import PATIENCE, eventually

__all__ = ["NOT_RUN", "ROOT", "Reader", "Step", "parse", "reader", "steps", "to_url"]

ROOT = Path(__file__).resolve().parent.parent

NOT_RUN = {
    "a fresh clone": "it installs this package and runs these very tests",
    "packages": "pip would need the network",
    "another server": "it needs a second machine, a pooler, pg_cron or Docker",
    "needs a terminal": "it runs until the user quits; see tests/test_top_cli.py",
    "your DSN": "the value differs from reader to reader; the test takes the one that was printed",
}
"""Reasons not to run a block; it is still parsed if its language allows that."""


@dataclass(frozen=True)
class Step:
    """A fenced block, or an instruction in a comment, which has no language."""

    place: str
    notes: dict[str, str]
    language: str = ""
    text: str = ""


_COMMENT = re.compile(r"<!-- ([a-z ]+?)(?:: (.+?))? -->")


def steps(document: Path) -> list[Step]:
    """Return the steps of a document, from top to bottom."""
    found: list[Step] = []
    notes: dict[str, str] = {}
    lines = iter(enumerate(document.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        place = f"{document.name}:{number}"
        if comment := _COMMENT.fullmatch(line):
            order = {comment[1]: comment[2] or ""}
            if order.keys() & {"stop", "kill", "check"}:
                found.append(Step(place, order))
            elif not order.keys() & {"figures", "end"}:  # those are for docs/make_performance.py
                notes |= order
        elif line.startswith("```"):
            body: list[str] = []
            for _, inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            else:
                raise AssertionError(f"{place}: the block does not end")
            found.append(Step(place, notes, line[3:], "\n".join(body) + "\n"))
            notes = {}
        else:
            assert not notes, f"{place}: a comment without a block after it: {notes}"
    return found


class Background:
    """A command that runs in the background, and its output."""

    def __init__(self, command: str, folder: Path, env: dict[str, str]) -> None:
        self.printed = ""
        self.seen = 0
        self._process = subprocess.Popen(
            shlex.split(command),
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.printed += line

    def expect(self, pattern: str, what: str) -> str:
        """Wait until the unread output matches the pattern; return the match."""
        try:
            eventually(lambda: re.search(pattern, self.printed[self.seen :], re.DOTALL), what)
        except AssertionError as error:
            raise AssertionError(f"{error}; printed: {self.printed[self.seen :]}") from None
        match = re.search(pattern, self.printed[self.seen :], re.DOTALL)
        assert match is not None
        self.seen += match.end()
        return match[0]

    def end(self, how: signal.Signals) -> int:
        """Send a signal, wait for the process to exit, and return its status."""
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            return self._process.wait(2 * PATIENCE)
        finally:
            self._process.kill()
            self._reader.join()
            assert self._process.stdout is not None
            self._process.stdout.close()


class Psql:
    """A psql session that stops at the first error."""

    def __init__(self, dsn: str, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["psql", "-X", "-v", "ON_ERROR_STOP=1", "-P", "pager=off", dsn],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, text: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{text}\n\\echo --end--\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line == "--end--\n":
                return printed
            printed += line
        raise AssertionError(f"psql failed: {printed}")

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=2 * PATIENCE)


@dataclass
class Reader:
    """Does what a document says, in a separate folder."""

    folder: Path
    home: Path
    dsn: str = ""
    printed: str | Background = ""
    namespace: dict[str, object] = field(default_factory=lambda: {"__name__": "sample"})
    background: dict[str, Background] = field(default_factory=dict)
    psql: Psql | None = None

    @property
    def env(self) -> dict[str, str]:
        # A newer pg_dump or pg_restore writes settings that an older server does not know.
        version = wanted_version() if wanted_version() in embedded.VERSIONS else None
        programs = find_binaries(version or max(embedded.VERSIONS)).bin
        path = [Path(sys.executable).parent, programs]
        return {
            **os.environ,
            "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]]),
            "PGQUE_DSN": self.dsn,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.home),
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
        }

    def read(self, document: Path) -> None:
        """Run all steps of a document."""
        for step in steps(document):
            try:
                self._follow(step)
            except Exception as error:
                raise AssertionError(f"{step.place}: {error}") from error

    def _follow(self, step: Step) -> None:
        if "not run" in step.notes:
            assert step.notes["not run"] in NOT_RUN
            parse(step)
        elif not step.language:
            self._obey(*next(iter(step.notes.items())))
        elif "file" in step.notes:
            path = self.folder / step.notes["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
            parse(step)
        else:
            run: Callable[[Step], None] = getattr(self, f"_{step.language}")
            run(step)

    def _obey(self, order: str, value: str) -> None:
        if order == "check":
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                eventually(lambda: conn.execute(value.encode()).fetchone() == (True,), value)
        elif order == "stop":
            assert self.background.pop(value).end(signal.SIGINT) == 0
        else:
            assert self.background.pop(value).end(signal.SIGKILL) == -signal.SIGKILL

    def _python(self, step: Step) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(step.text, step.place, "exec"), self.namespace)
        self.printed = printed.getvalue()

    def _sql(self, step: Step) -> None:
        self.psql = self.psql or Psql(self.dsn, self.env)
        self.printed = self.psql.run(step.text)

    def _sh(self, step: Step) -> None:
        if "background" in step.notes:
            command = step.text.strip()
            arguments = step.notes.get("with", "").format(home=self.home)
            child = Background(f"{command} {arguments}", self.folder, self.env)
            self.background[command] = self.printed = child
            if command == "pgque dev":
                self.dsn = child.expect(r"postgresql://[^\s']+", "a DSN")
                os.environ["PGQUE_DSN"] = self.dsn
                child.seen = 0
            return
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.text],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * PATIENCE,
        )
        assert done.returncode == 0, done.stdout
        self.printed = done.stdout

    def _text(self, step: Step) -> None:
        pattern = re.escape(step.text.strip()).replace(r"\.\.\.", ".*?")
        if "prints" in step.notes:
            self.printed = self.background[step.notes["prints"]]
        if isinstance(self.printed, Background):
            self.printed.expect(rf"(?m:^{pattern}$)", step.text)
        else:
            printed = re.sub(r" +$", "", self.printed, flags=re.MULTILINE)  # psql pads its lines
            assert re.fullmatch(pattern, printed.strip(), re.DOTALL), printed

    def close(self) -> None:
        """Stop the remaining processes, newest first."""
        for value in self.namespace.values():
            if isinstance(value, psycopg.Connection | pgque.PgqueClient | pgque.ClientPool):
                value.close()
            elif isinstance(value, sqlalchemy.Engine):
                value.dispose()
        if self.psql is not None:
            self.psql.close()
        for command, child in reversed(self.background.items()):
            assert child.end(signal.SIGINT) == 0, f"{command}: {child.printed}"


def parse(step: Step) -> None:
    """Parse a block that is a file, or that is not run, if its language can be parsed."""
    if step.language == "python":
        compile(step.text, step.place, "exec")
    elif step.language == "sh":
        subprocess.run(["bash", "-n"], input=step.text, text=True, check=True)
    elif step.language == "ini":
        configparser.ConfigParser(interpolation=None).read_string(step.text)
    elif step.language == "yaml":
        yaml.safe_load(step.text)
    else:
        assert step.language in {"sql", "text"}, step.place


@contextlib.contextmanager
def reader(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, dsn: str) -> Iterator[Reader]:
    """A reader whose programs find the folder's modules and the DSN as in a shell."""
    monkeypatch.setenv("PGQUE_DSN", dsn)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    one = Reader(folder, home, dsn)
    try:
        yield one
    finally:
        one.close()
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(f"{folder}{os.sep}"):
                del sys.modules[name]
