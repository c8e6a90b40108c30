"""Every command's reaction to a wrong call, an unusable database and a closed pipe.

The list of commands comes from the command line; a new command must be added here.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgque.cli.app import BROKEN_PIPE, EXIT_STATUS, run
from pgque.cli.app import command as whole
from tests.fix_cli import CHECKOUT, command, environment
from tests.fix_engine import send
from tests.running import PATIENCE, eventually

NO_SERVER = "host=127.0.0.1 port=1 connect_timeout=2"

ARGUMENTS = {
    "consumer list": [],
    "consumer seek": ["orders", "mailer", "--tick", "1"],
    "consumer subscribe": ["orders", "mailer"],
    "consumer unsubscribe": ["orders", "mailer", "--yes"],
    "dead list": ["orders"],
    "dead purge": ["orders", "--yes"],
    "dead replay": ["1"],
    "dead show": ["1"],
    "demo": ["--plain"],
    "doctor": [],
    "install": [],
    "metrics": [],
    "queue create": ["orders"],
    "queue drop": ["orders", "--yes"],
    "queue list": [],
    "queue pause": ["orders"],
    "queue resume": ["orders"],
    "queue set": ["orders", "max_retries", "3"],
    "queue show": ["orders"],
    "send": ["orders", "x"],
    "status": [],
    "tail": ["orders", "-F"],
    "ticker": [],
    "uninstall": ["--yes"],
    "upgrade": [],
    "version": [],
}

SEPARATE = {
    "dashboard": "a server that waits for its database",
    "dev": "starts its own database",
    "dump": "passes unknown options on to pg_dump",
    "sql": "it needs none",
    "top": "needs a terminal",
    "worker": "its processes connect: see test_worker.py",
}

WITHOUT_SCHEMA = {"doctor": 2, "uninstall": 0, "version": 0}
"""Commands that do not report a missing schema, with their exit status."""


OWNER = {"install", "uninstall", "upgrade"}
"""Commands that only the owner of the schema may run."""


def commands(group, before: str = "") -> Iterator[str]:
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, f"{before}{name} ")
        else:
            yield before + name


COMMANDS = sorted(commands(whole()))


def test_every_command_is_listed_here():
    assert set(COMMANDS) <= ARGUMENTS.keys() | SEPARATE.keys()
    assert set(COMMANDS) >= ARGUMENTS.keys()


def found_command(name: str):
    found = whole()
    for part in name.split():
        found = found.commands[part]
    return found


def parameters(name: str):
    return [one for one in found_command(name).params if "--help" not in one.opts]


@pytest.fixture
def wrong(capsys, monkeypatch):
    """Call a command wrongly; return its one line of error."""
    monkeypatch.delenv("PGQUE_DSN", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def wrong(*arguments: str, of: str) -> str:
        status = run(list(arguments))
        out, errors = capsys.readouterr()
        assert (status, out) == (2, ""), arguments
        assert "\x1b" not in errors
        line = one_line(errors)
        said, _, whose = line.removeprefix("pgque: ").rpartition(" (")
        assert whose == f"{of} --help)"
        return said

    return wrong


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "dump"])
def test_an_unknown_option_is_refused(wrong, name):
    of = f"pgque {name}"
    assert wrong(*name.split(), "--nosuch", of=of) == "no such option: --nosuch"
    assert wrong("--debug", *name.split(), "--nosuch=1", of=of) == "no such option: --nosuch"


@pytest.mark.parametrize("name", COMMANDS)
def test_too_few_or_too_many_arguments_are_refused(wrong, name):
    found = parameters(name)
    arguments = [one for one in found if one.param_type_name == "argument"]
    database = ["--dsn", "x"] if any("--dsn" in one.opts for one in found) else []
    given = [*name.split(), *database]
    for one in arguments:
        if one.required:
            called = one.metavar or one.name
            assert wrong(*given, of=f"pgque {name}") == f"missing argument '{called}'"
            given.append("1")
    if all(one.nargs == 1 for one in arguments):
        many = ["1"] * len(arguments)
        said = wrong(*name.split(), *database, *many, "extra", of=f"pgque {name}")
        assert said.startswith("got unexpected extra argument"), said
        assert said.endswith("(extra)")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_without_its_value_is_refused(wrong, name):
    for option in parameters(name):
        if option.param_type_name == "option" and not option.is_flag:
            said = wrong(*name.split(), option.opts[0], of=f"pgque {name}")
            assert said == f"option '{option.opts[0]}' requires an argument"


def numbers(name: str) -> Iterator[tuple[str, list[str]]]:
    """The numeric parameters of a command, each with a call that passes text instead."""
    hints = typing.get_type_hints(found_command(name).callback)
    for one in parameters(name):
        wanted = hints.get(one.name)
        if {int, float} & {wanted, *typing.get_args(wanted)}:
            given = [one.opts[0]] if one.param_type_name == "option" else []
            yield given[0] if given else one.metavar or one.name, [*given, "so many"]


def test_a_value_that_is_not_a_number_is_refused(wrong):
    asked = 0
    for name in COMMANDS:
        for what, given in numbers(name):
            said = wrong(*name.split(), *given, of=f"pgque {name}")
            assert re.match(f"invalid value for '{re.escape(what)}'.*: .*valid", said), said
            asked += 1
    assert asked >= 10


@pytest.mark.parametrize(
    ("called", "meant", "of"),
    [
        (["tal"], "'tail'", "pgque"),
        (["queue", "drp"], "'drop'", "pgque queue"),
        (["queue", "drop", "orders", "--frce"], "--force", "pgque queue drop"),
        (["--debgu", "status"], "--debug", "pgque"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(wrong, called, meant, of):
    said = wrong(*called, of=of)
    assert said.startswith("no such "), said
    assert f"Did you mean {meant}" in said


def test_conflicting_options_are_refused(wrong):
    def said(*arguments: str) -> str:
        name = [
            one for one in arguments[:2] if one in {"consumer", "dead", "seek", "replay", "send"}
        ]
        return wrong(*arguments, "--dsn", "x", of=" ".join(["pgque", *name]))

    assert said("send", "orders") == "give either payloads or --file"
    assert said("dead", "replay") == "give either ids or --all QUEUE"
    assert said("consumer", "seek", "orders", "mailer") == "give either --tick or --at"


def test_control_characters_in_arguments_are_escaped(wrong):
    assert "\\x1b[2J" in wrong("\x1b[2J\nnext", of="pgque")


def test_answering_no_ends_with_one_line(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run(["queue", "drop", "orders", "--dsn", NO_SERVER]) == 1
    assert one_line(capsys.readouterr().err) == "pgque: aborted"


@pytest.fixture
def said(capsys, monkeypatch):
    """Run a command in this process; return its status and output."""
    monkeypatch.delenv("PGQUE_DSN", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def said(name: str, dsn: str, *more: str) -> tuple[int, str, str]:
        status = run([*name.split(), *ARGUMENTS[name], *more, "--dsn", dsn])
        return status, *capsys.readouterr()

    return said


def one_line(errors: str) -> str:
    [line] = errors.splitlines()
    assert line.startswith("pgque: ")
    return line


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("dsn", [NO_SERVER, "no such thing", "service=nobody"])
def test_every_command_reports_an_unreachable_server(said, name, dsn):
    status, out, errors = said(name, dsn)
    if name == "doctor":
        assert (status, errors) == (2, "")
        assert out.startswith("FAULT    server: ")
    elif name == "metrics":
        assert status == 1
        assert one_line(errors)
    elif name == "version" and dsn != NO_SERVER:
        assert status == 1
    else:
        assert (status, out) == (1, "")
        assert one_line(errors)


def test_every_command_reports_a_missing_schema(said, empty_dsn):
    for name in sorted(ARGUMENTS.keys() - {"demo", "install"}):
        status, _, errors = said(name, empty_dsn)
        if name in WITHOUT_SCHEMA:
            assert status == WITHOUT_SCHEMA[name], name
        else:
            assert status == 1, name
            assert "pgque install" in one_line(errors) or name == "metrics", name


@pytest.fixture
def nobody(autoconn: psycopg.Connection, queue: str) -> Iterator[str]:
    """A role without any rights."""
    name = f"pgque_nobody_{os.getpid()}"
    autoconn.execute(f"create role {name} login")
    yield name
    autoconn.execute(f"drop owned by {name}")
    autoconn.execute(f"drop role {name}")


def test_every_command_reports_missing_rights(said, dsn, nobody):
    for name in sorted(ARGUMENTS.keys() - {"demo"}):
        status, _, errors = said(name, make_conninfo(dsn, user=nobody))
        if name == "doctor":
            assert (status, errors) == (2, "")
        else:
            assert status == 1, name
            assert "grant" in one_line(errors) or name in OWNER or name == "metrics", name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_the_exit_statuses_and_is_plain_without_a_terminal(name, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert run([*name.split(), "--help"]) == 0
    out, errors = capsys.readouterr()
    assert " ".join(EXIT_STATUS.split()) in " ".join(out.split())
    assert "\x1b" not in out + errors


def test_output_is_plain_text_without_a_terminal(said, dsn, queue):
    # The last command leaves the others nothing to look at.
    for name in sorted(ARGUMENTS.keys() - {"demo", "ticker"}, key=lambda name: name == "uninstall"):
        for more in [], ["--json"]:
            _, out, errors = said(name, dsn, *more)
            assert "\x1b" not in out + errors, name


@contextlib.contextmanager
def nobody_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output is a pipe whose reader has exited."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patched, open(writer, "w", buffering=1) as pipe:
        patched.setattr(sys, "stdout", pipe)
        patched.setattr(sys, "stderr", sys.stderr)  # restored afterwards
        yield
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, writer)
        os.close(nowhere)


PRINTS = [
    ["queue", "list"],
    ["queue", "list", "--json"],
    ["consumer", "list"],
    ["status"],
    ["doctor"],
    ["doctor", "--json"],
    ["metrics"],
    ["version"],
    ["sql"],
    ["--help"],
]


@pytest.mark.parametrize("arguments", PRINTS, ids=" ".join)
def test_a_broken_pipe_ends_the_command_quietly(arguments, consumer, dsn, monkeypatch, capfd):
    monkeypatch.setenv("PGQUE_DSN", dsn)
    with nobody_reads(monkeypatch):
        assert run(arguments) == BROKEN_PIPE
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shown", [["queue", "list", "--json"], ["tail", "--since", "9999"]])
def test_a_broken_pipe_ends_a_process_quietly(dsn, queue, autoconn, shown):
    send(autoconn, queue, "x" * 100_000)
    autoconn.execute("select pgque.ticker()")
    reader, writer = os.pipe()
    os.close(reader)
    name, *rest = shown
    done = subprocess.run(
        command(name, *([queue] if name == "tail" else []), *rest),
        cwd=CHECKOUT,
        env=environment(PGQUE_DSN=dsn),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=4 * PATIENCE,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, "")


def test_the_shell_completes_commands():
    done = subprocess.run(
        [sys.executable, "-c", "from pgque.cli import main; main()"],
        cwd=CHECKOUT,
        env=environment(
            _PGQUE_COMPLETE="complete_bash", COMP_WORDS="pgque queue re", COMP_CWORD="2"
        ),
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["resume"]


def test_libpq_service_and_password_files_are_used(said, own_server, tmp_path: Path, monkeypatch):
    where = psycopg.conninfo.conninfo_to_dict(own_server.dsn)
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        conn.execute("create role pgque_secret login password 'rosebud'")
        [hba] = conn.execute("show hba_file").fetchone()
        before = Path(hba).read_text()
        Path(hba).write_text(f"local all pgque_secret scram-sha-256\n{before}")
        conn.execute("select pg_reload_conf()")
    (tmp_path / "services").write_text(
        f"[shop]\nhost={where['host']}\nport={where['port']}\ndbname=postgres\nuser=pgque_secret\n"
    )
    passwords = tmp_path / "passwords"
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    eventually(lambda: said("version", "service=shop")[0], "the server to ask for a password")
    assert "no password supplied" in one_line(said("version", "service=shop")[2])
    passwords.write_text("*:*:*:pgque_secret:rosebud\n")
    passwords.chmod(0o600)
    status, out, _ = said("version", "service=shop")
    assert status == 0
    assert "schema  not installed" in out
    passwords.write_text("*:*:*:pgque_secret:wrong\n")
    assert "password authentication failed" in one_line(said("version", "service=shop")[2])
