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
        help="A Consumer or Ticker in your module, or a function that returns one.",
        show_default=False,
    ),
]
Processes = Annotated[
    int, typer.Option("--processes", "-p", min=1, help="The number of processes per target.")
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace",
        metavar="SECONDS",
        min=0,
        max=86_400,
        help="How long a process may take to finish its message before it is killed.",
    ),
]
Reload = Annotated[
    bool, typer.Option("--reload", help="Restart when a Python file changes, for development.")
]


def command(
    context: typer.Context,
    targets: Targets,
    processes: Processes = 1,
    grace: Grace = 30,
    reload: Reload = False,
    dsn: OptionalDsn = None,
) -> None:
    """Run each consumer in its own process, until stopped.

    Each process imports the module, with the current directory on its path. A process that dies is
    restarted. If a consumer has a subconsumer, its processes are members of its group, named
    SUBCONSUMER-1 and so on. Without one, one process works and the others stand by.

    SIGTERM and SIGINT stop the processes after their current messages; a second signal kills them.
    SIGHUP replaces all processes, if the module can still be loaded.

    Exits with 0 after a stop, 1 if no consumer could start, 2 if one cannot be loaded.
    """
    from pgque.worker import LoadError, StartError, Supervisor

    if reload:
        need("watchfiles")
    if dsn is not None:
        os.environ["PGQUE_DSN"] = dsn  # for the modules; an argument would show in `ps`
    log_to_stderr()
    debug = bool(context.find_root().params.get("debug"))
    supervisor = Supervisor(targets, processes=processes, grace=grace, reload=reload, debug=debug)
    try:
        supervisor.run()
    except LoadError as error:
        raise CommandError(str(error), status=2) from error
    except StartError as error:
        raise CommandError(str(error)) from error
