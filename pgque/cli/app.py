"""All commands, and how their errors are reported."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Annotated, Any

import psycopg
import typer
import typer.main

from pgque._extras import advice
from pgque.cli import (
    consumer,
    dashboard,
    dead,
    demo,
    dev,
    doctor,
    dump,
    install,
    metrics,
    queue,
    send,
    sql,
    status,
    tail,
    ticker,
    top,
    uninstall,
    upgrade,
    version,
    worker,
)
from pgque.cli.options import CommandError
from pgque.errors import PgqueError
from pgque.watching.readable import printable

EXIT_STATUS = (
    "Exit status: 0 for success; 1 after an error, reported as one line on standard error; 2 for a "
    "usage error, also one line; 130 after Ctrl-C; 141 if the reader of its output has gone."
)
BROKEN_PIPE = 141
"""The status a shell reports for a program killed by SIGPIPE: 128 + 13."""
INTERRUPTED = 130
WRONGLY_CALLED = 2

_USAGE_ERROR: Any = typer.BadParameter.__base__
"""The base class of usage errors. Typer has no public name for it."""

app = typer.Typer(
    name="pgque",
    help="Queues of events inside PostgreSQL.",
    no_args_is_help=True,
    epilog=EXIT_STATUS,
    pretty_exceptions_enable=False,
)

# The order of --help: the commands that a newcomer needs come first.
for module in (
    demo,
    dev,
    install,
    upgrade,
    ticker,
    worker,
    send,
    tail,
    status,
    top,
    doctor,
    dashboard,
    metrics,
    dump,
    version,
    sql,
    uninstall,
):
    app.command(
        module.__name__.rpartition(".")[2],
        epilog=EXIT_STATUS,
        context_settings=getattr(module, "CONTEXT", None),
    )(module.command)
for group in (queue, consumer, dead):
    for one in group.app.registered_commands:
        one.epilog = EXIT_STATUS
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])

_show_traceback = False


@app.callback(invoke_without_command=True)
def before_any_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    shows_version: Annotated[
        bool, typer.Option("--version", help="Print the version of pgque.", is_eager=True)
    ] = False,
) -> None:
    """Store the options given before the command's name."""
    global _show_traceback
    _show_traceback = debug
    if shows_version:
        typer.echo(f"pgque {metadata.version('pgque')}")
        raise typer.Exit


@cache
def command() -> Any:
    """Return the group of all commands that typer has built."""
    return typer.main.get_command(app)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status (see `EXIT_STATUS`)."""
    try:
        status = command()(arguments, prog_name="pgque", standalone_mode=False)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            return BROKEN_PIPE
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except typer.Abort as end:
        typer.echo("pgque: aborted", err=True)
        return INTERRUPTED if isinstance(end.__context__, KeyboardInterrupt) else 1
    except _USAGE_ERROR as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # that one has already printed the help
            typer.echo(f"pgque: {_what_was_wrong(error, arguments)}", err=True)
        return WRONGLY_CALLED
    except Exception as error:
        if _show_traceback:
            raise
        typer.echo(f"pgque: {_one_line(error)}", err=True)
        return error.status if isinstance(error, CommandError) else 1
    return status if isinstance(status, int) else 0


def _what_was_wrong(error: Any, arguments: Sequence[str]) -> str:
    """Return typer's message on one line, with the command whose help explains more."""
    # The messages for misspelt options and misspelt commands hold their suggestions differently.
    meant = getattr(error, "possibilities", None)
    text = error.message if meant else error.format_message()
    if type(error).__name__ == "MissingParameter" and "--dsn" in error.param.opts:
        text = "no database given: pass --dsn or set PGQUE_DSN; `pgque dev` starts one to try"
    text = " ".join(text.split()).removeprefix("Invalid value: ").removesuffix(".")
    if meant:
        text += f". Did you mean {', '.join(sorted(meant))}?"
    called = error.ctx.command_path if error.ctx else _called(arguments)
    return printable(f"{text[:1].lower()}{text[1:]} ({called} --help)")


def _called(arguments: Sequence[str]) -> str:
    """Return the command named by the arguments, up to the first unknown word."""
    names = ["pgque"]
    found = command()
    for argument in arguments:
        if argument in getattr(found, "commands", ()):
            names.append(argument)
            found = found.commands[argument]
    return " ".join(names)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and (lacking := advice(error)):
        return lacking
    if isinstance(error, CommandError | PgqueError | psycopg.Error | OSError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text} (`pgque --debug …` shows where)"
