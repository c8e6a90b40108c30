"""`pgque worker`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pgque._extras import need
from pgque.cli.options import CommandError, OptionalDsn, log_to_stderr

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="MODULE:CONSUMER",
        help="Where your Consumer is, or a Ticker, or a function that makes one.",
        show_default=False,
    ),
]
Processes = Annotated[
    int, typer.Option("--processes", "-p", min=1, help="So many processes of each.")
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace",
        metavar="SECONDS",
        min=0,
        max=86_400,
        help="What a process has to finish its message; then it is killed.",
    ),
]
Reload = Annotated[
    bool, typer.Option("--reload", help="Start anew when a Python file changes: for development.")
]


def command(
    context: typer.Context,
    targets: Targets,
    processes: Processes = 1,
    grace: Grace = 30,
    reload: Reload = False,
    dsn: OptionalDsn = None,
) -> None:
    """Run consumers in processes of their own, until stopped.

    Each process imports the module, with the current directory in its path. One that dies is
    started again. Several processes of a consumer with a subconsumer are members of its group,
    named SUBCONSUMER-1 and so on; without one, they stand by for the one that works.

    SIGTERM and SIGINT stop after the messages that are handled; a second one kills. SIGHUP replaces
    all processes, if the module can still be loaded.

    Exits with 0 after a stop, 1 where no consumer could begin to work, 2 where one cannot be
    loaded.
    """
    from pgque.worker import LoadError, StartError, Supervisor

    if reload:
        need("watchfiles")
    if dsn is not None:
        os.environ["PGQUE_DSN"] = dsn  # for the modules, and not among the arguments in `ps`
    log_to_stderr()
    debug = bool(context.find_root().params.get("debug"))
    supervisor = Supervisor(targets, processes=processes, grace=grace, reload=reload, debug=debug)
    try:
        supervisor.run()
    except LoadError as error:
        raise CommandError(str(error), status=2) from error
    except StartError as error:
        raise CommandError(str(error)) from error
