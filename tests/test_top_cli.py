"""`pgque top` as a command: in a terminal, and without one."""

import os
import pty
import select
import subprocess

import pytest

from tests.fix_cli import CHECKOUT, cli, command, environment, failed
from tests.running import PATIENCE


class Terminal:
    """A command in a separate pseudo-terminal."""

    def __init__(self, *arguments: str, **more: str) -> None:
        self._ours, theirs = pty.openpty()
        self.screen = b""
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=CHECKOUT,
            env={**environment(**more), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def wait_for(self, text: str) -> None:
        while text.encode() not in self.screen:
            assert select.select([self._ours], [], [], PATIENCE)[0], self.screen
            assert self._read(), self.screen

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def ended(self) -> int:
        """Read the output until the command ends; return its status."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bytes:
        try:
            found = os.read(self._ours, 65536)
        except OSError:  # the other end has been closed
            found = b""
        self.screen += found
        return found

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_top_runs_in_a_terminal_until_it_is_quit(dsn, autoconn, queue):
    with Terminal("top", "--queue", queue, PGQUE_DSN=dsn) as terminal:
        terminal.wait_for("No consumers. Subscribe one")
        terminal.press("q")
        assert terminal.ended() == 0
    assert b"Traceback" not in terminal.screen


def test_a_signal_ends_top_and_restores_the_terminal(dsn, queue):
    with Terminal("top", "--queue", queue, PGQUE_DSN=dsn) as terminal:
        terminal.wait_for("No consumers. Subscribe one")
        terminal.process.terminate()
        assert terminal.ended() == 0
    assert b"\x1b[?1049l" in terminal.screen


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--queue", "none"], "queue not found: none"),
        (["--dsn", "host=/nowhere"], "Check that the server runs"),
    ],
)
def test_errors_are_printed_before_the_screen_is_taken_over(dsn, options, words):
    with Terminal("top", *options, PGQUE_DSN=dsn) as terminal:
        assert terminal.ended() == 1
    said = terminal.screen.decode()
    assert said.startswith("pgque: ")
    assert words in said
    assert "\x1b" not in said
    assert len(said.splitlines()) == 1


def test_without_a_terminal_top_fails_with_a_message(dsn):
    assert "needs a terminal" in failed(cli("top", PGQUE_DSN=dsn))


def test_a_missing_textual_names_the_extra(dsn, tmp_path):
    (tmp_path / "textual.py").write_text(
        "raise ModuleNotFoundError('No module named textual', name='textual')"
    )
    said = failed(cli("top", PGQUE_DSN=dsn, PYTHONPATH=str(tmp_path)))
    assert "pip install 'pgque[top]'" in said


def test_an_invalid_interval_is_a_usage_error(dsn):
    done = cli("top", "--interval", "0", PGQUE_DSN=dsn)
    assert done.returncode == 2
