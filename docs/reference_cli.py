"""Makes the command line reference: the help of each command, and the output of an example."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Final

import pgque
from pgque.cli.app import command, run
from pgque.embedded.binaries import find_binaries

HEAD: Final = """# Reference: command line

<!-- Made by docs/make_reference.py, which ran the examples in order. -->

Install it with the extra `cli`: `pip install 'pgque[cli]'`. Each command has `--help`.
`pgque --install-completion` adds completion of commands and options to bash, zsh, fish or
PowerShell (`--show-completion` prints what it would install). Set the database with `--dsn` or
`PGQUE_DSN`, as a libpq connection string or URL. libpq fills in anything you leave out, for example
from `PGHOST`, service files and `.pgpass`.

Exit status: 0 for success; 1 after an error, reported as one line on standard error
(`pgque --debug COMMAND` shows the traceback); 2 for a usage error, also one line, which names the
`--help` that explains more; 130 after Ctrl-C; 141 if the reader of its output has gone, as with
`pgque tail orders | head -1`. [`doctor`](#pgque-doctor) and [`worker`](#pgque-worker) define their
own. Commands that run until stopped (`dev`, `ticker`, `worker`) exit with 0 after SIGTERM or
Ctrl-C.
"""

EXAMPLES: Final = {
    "pgque dev": ["pgque dev --data shop-data"],
    "pgque install": ["pgque install"],
    "pgque upgrade": ["pgque upgrade", "pgque upgrade --json"],
    "pgque sql": ["pgque sql | head -2"],
    "pgque ticker": ["pgque ticker"],
    "pgque queue create": ["pgque queue create orders"],
    "pgque consumer subscribe": ["pgque consumer subscribe orders mailer"],
    "pgque worker": ["pgque worker shop:mailer"],
    "pgque send": [
        """pgque send orders '{"order": 1}' '{"order": 2}' --type placed --key anna""",
        "pgque send orders --file orders.ndjson --resume orders.sent",
        "pgque send orders --file orders.ndjson --resume orders.sent",
    ],
    "pgque tail": ["pgque tail orders --no-follow --since 3600"],
    "pgque queue list": ["pgque queue list", "pgque queue list --json"],
    "pgque queue show": ["pgque queue show orders"],
    "pgque queue set": ["pgque queue set orders max_retries 3"],
    "pgque queue pause": ["pgque queue pause orders"],
    "pgque queue resume": ["pgque queue resume orders"],
    "pgque consumer list": ["pgque consumer list"],
    "pgque consumer seek": ["pgque consumer seek orders mailer --tick 1"],
    "pgque status": ["pgque status"],
    "pgque doctor": ["pgque doctor"],
    "pgque dashboard": ["pgque dashboard --port 0"],
    "pgque metrics": ["pgque metrics"],
    "pgque dump": ["pgque dump --format=custom --file=orders.dump"],
    "pgque version": ["pgque version"],
    "pgque dead list": ["pgque dead list orders"],
    "pgque dead show": ["pgque dead show 1"],
    "pgque dead replay": ["pgque dead replay 1"],
    "pgque dead purge": ["pgque dead purge orders --days 7 --yes"],
    "pgque consumer unsubscribe": ["pgque consumer unsubscribe orders mailer --yes"],
    "pgque queue drop": ["pgque queue drop orders --yes"],
    "pgque demo": ["pgque demo --rate max"],
    "pgque uninstall": ["pgque uninstall --yes"],
}
"""In the order of execution. The page follows the order of the help."""

PICTURES: Final = {"pgque top": "top.svg"}
"""Pictures of commands that print nothing, made by docs/make_top.py."""

LINES: Final = '{"order": 3}\n{"order": 4}\n'

SHOP: Final = """import os

import pgque

mailer = pgque.Consumer(os.environ["PGQUE_DSN"], queue="orders", name="mailer")


@mailer.on("*")
def send_mail(message): ...
"""

FILES: Final = {"orders.ndjson": LINES, "shop.py": SHOP}
"""Files that the examples need in the current directory."""

APART: Final = {
    "pgque dashboard --port 0": "The dashboard is at",
    "pgque demo --rate max": None,
    "pgque dev --data shop-data": "leading",
    "pgque ticker": "leading",
    "pgque worker shop:mailer": "starts:",
}
"""Examples that run in a separate process, which gets Ctrl-C once it has printed this text."""


def cli_reference(
    dsn: str, let_die: Callable[[], None], known: Mapping[str, str] | None = None
) -> str:
    """Return the page.

    ``let_die`` makes a dead letter in the queue orders. ``known`` holds commands that need not run,
    with their earlier output, as `examples` returns it.
    """
    printed: dict[str, list[str]] = {title: [text] for title, text in (known or {}).items()}
    for title, calls in EXAMPLES.items():
        if title == "pgque dead list":
            let_die()
        if title not in printed:
            printed[title] = [f"$ {call}\n{_run(call, dsn)}" for call in calls]
    return HEAD + "".join(_commands(command(), "pgque", printed))


def examples(page: str) -> dict[str, str]:
    """Return the example output on a page, by command."""
    found = {}
    for section in page.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        shown = re.search(r"(?ms)^```text\n(.*?)^```$", text) or re.search(r"!\[.*\]\(\S+\)", text)
        if shown:
            found[title] = shown[shown.re.groups]
    return found


def without_what_varies(page: str) -> str:
    """Return a page without the times, versions and widths, which differ between runs."""
    page = re.sub(r"(?m)^ +[\d.]+ s  .*\n", "", page)  # the demo's progress
    page = re.sub(r"(?m)\nNext:\n( +.*\n)+", "", page)  # depends on how it was called
    page = re.sub(r"postgresql://\S+", "URL", page)
    page = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", page)
    page = re.sub(r"(?m)^(ok|WARNING|FAULT) +settings: .*\n( +-> .*\n)?", "", page)
    page = re.sub(r"(?m)^.* shop:mailer: .*\n", "", page)  # log lines of the process itself
    page = re.sub(r"pid \d+", "pid", page)
    page = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?(\+\d\d:\d\d)?", "TIME", page)
    page = re.sub(r"-?[\d,.]+ (ms|s|min|h|d)\b", "TIME", page)
    page = re.sub(r'("(?:last_tick|oldest_waiting|events_per_second)": )[\d.]+', r"\1N", page)
    page = re.sub(r"(_seconds\{[^}]*\}) [\d.e-]+", r"\1 N", page)
    page = re.sub(r"(PostgreSQL|client|schema  ) [\d.]+[^\n,]*", r"\1", page)
    page = re.sub(r"(received after|ev per sec|ev_txid|ev txid) .*", r"\1", page)
    return re.sub(r"[ ─]+", " ", page)


def _run_apart(call: str, dsn: str, said: str | None) -> str:
    checkout = os.path.dirname(os.path.dirname(pgque.__file__))
    process = subprocess.Popen(
        [sys.executable, "-m", *shlex.split(call)],
        env={**os.environ, "PGQUE_DSN": dsn, "PYTHONPATH": checkout, "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    with process.stdout as output:
        for line in output:
            line = line.replace(f"{sys.executable} -m pgque", "pgque")
            lines.append(line.replace(os.getcwd(), "/home/anna"))
            if said and said in line:
                process.send_signal(signal.SIGINT)
    assert process.wait() == 0, lines
    return "".join(lines)


def _run(call: str, dsn: str) -> str:
    if call in APART:
        return _run_apart(call, dsn, APART[call])
    call, _, head = call.partition(" | head -")
    out = io.StringIO()
    before = {name: os.environ.get(name) for name in ("PGQUE_DSN", "NO_COLOR", "TZ", "PATH")}
    programs = f"{find_binaries(18).bin}{os.pathsep}{os.environ['PATH']}"  # a pg_dump new enough
    os.environ.update(PGQUE_DSN=dsn, NO_COLOR="1", TZ="UTC", PATH=programs)
    try:
        with redirect_stdout(out), redirect_stderr(out):
            run(shlex.split(call)[1:])
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    lines = out.getvalue().splitlines()[: int(head) if head else None]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _commands(group: Any, name: str, printed: dict[str, list[str]]) -> Iterator[str]:
    for short, found in group.commands.items():
        title = f"{name} {short}"
        if hasattr(found, "commands"):
            yield from _commands(found, title, printed)
            continue
        yield f"\n## {title}\n\n{_paragraphs(found.help)}\n"
        arguments = [o for o in found.params if o.param_type_name == "argument"]
        options = [o for o in found.params if o not in arguments and "--help" not in o.opts]
        if arguments or options:
            yield "\n"
        for argument in arguments:
            optional = "" if argument.required else " Optional."
            yield f"- `{argument.metavar or argument.name.upper()}`: {argument.help}{optional}\n"
        for option in options:
            yield f"- `{', '.join([*option.opts, *option.secondary_opts])}`: {_words(option)}\n"
        if title in printed:
            yield f"\n```text\n{''.join(printed[title])}```\n"
        elif title in PICTURES:
            yield f"\n![{title}]({PICTURES[title]})\n"


def _words(option: Any) -> str:
    words = str(option.help)
    if isinstance(option.show_default, str):
        words += f" Default: {option.show_default}."
    if option.envvar:
        words += f" Or in the environment, as `{option.envvar}`."
    return words


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
