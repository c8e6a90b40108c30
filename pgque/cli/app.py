"""The commands, and what becomes of their errors."""

from __future__ import annotations

from typing import Annotated

import psycopg
import typer

from pgque.cli import (
    consumer,
    dashboard,
    dead,
    demo,
    dev,
    doctor,
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

EXIT_STATUS = (
    "Exit status: 0; 1 after an error, which is one line on standard error; 2 where the command "
    "was called wrongly; 130 after Ctrl-C; 141 where nobody reads what is printed."
)
BROKEN_PIPE = 141
"""What a shell reports of a program that SIGPIPE has ended: 128 + 13."""

app = typer.Typer(
    name="pgque",
    help="Queues of events inside PostgreSQL.",
    no_args_is_help=True,
    epilog=EXIT_STATUS,
    pretty_exceptions_enable=False,
)

# In the order of --help: what a newcomer needs first.
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
    version,
    sql,
    uninstall,
):
    app.command(module.__name__.rpartition(".")[2], epilog=EXIT_STATUS)(module.command)
for group in (queue, consumer, dead):
    for one in group.app.registered_commands:
        one.epilog = EXIT_STATUS
    app.add_typer(group.app, name=group.__name__.rpartition(".")[2])

_show_traceback = False


@app.callback()
def before_any_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Keep what is said before the command's name."""
    global _show_traceback
    _show_traceback = debug


def run(arguments: list[str]) -> int:
    """Run one command; return the exit status, as `EXIT_STATUS` says."""
    try:
        app(arguments, prog_name="pgque")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            return BROKEN_PIPE
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if _show_traceback:
            raise
        typer.echo(f"pgque: {_one_line(error)}", err=True)
        return error.status if isinstance(error, CommandError) else 1
    return 0


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is missing: pip install 'pgque[demo]'"
    if isinstance(error, CommandError | PgqueError | psycopg.Error | OSError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text} (pgque --debug … shows where)"
