"""`pgque metrics`."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from pgque.cli.options import CommandError, Dsn

Listen = Annotated[
    int | None,
    typer.Option(
        "--listen", metavar="PORT", help="Serve them here until stopped.", show_default=False
    ),
]
Address = Annotated[str, typer.Option("--address", help="Where to listen.")]


def command(dsn: Dsn, listen: Listen = None, address: Address = "127.0.0.1") -> None:
    """Print figures for Prometheus once, or serve them under /metrics."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    except ModuleNotFoundError as error:
        raise CommandError("prometheus-client is missing: pip install 'pgque[metrics]'") from error
    from pgque.background import stop_on_signals
    from pgque.metrics import collector

    registry = CollectorRegistry()
    registry.register(collector(dsn))
    if listen is None:
        text = generate_latest(registry).decode()
        typer.echo(text, nl=False)
        if "pgque_up 0.0" in text:
            raise CommandError("the database could not be asked: pgque doctor says why")
        return
    start_http_server(listen, address, registry)
    stop = threading.Event()
    with stop_on_signals(stop.set):
        typer.echo(f"Serving http://{address}:{listen}/metrics", err=True)
        stop.wait()
