"""`pgque metrics`."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from pgque.cli.options import CommandError, Dsn

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=0,
        max=65535,
        help="Serve the metrics on this port until stopped; 0 picks a free one.",
        show_default=False,
    ),
]
Host = Annotated[str, typer.Option("--host", help="The address to listen on.")]


def command(dsn: Dsn, port: Port = None, host: Host = "127.0.0.1") -> None:
    """Print metrics for Prometheus once, or serve them under /metrics.

    Each scrape queries the database. A client that sends an Accept header for OpenMetrics gets
    that format.
    """
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server

    from pgque.metrics import collector
    from pgque.wire.background import stop_on_signals

    registry = CollectorRegistry()
    registry.register(collector(dsn))
    if port is None:
        text = generate_latest(registry).decode()
        typer.echo(text, nl=False)
        if "pgque_up 0.0" in text:
            raise CommandError("the database could not be queried: `pgque doctor` says why")
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise CommandError(f"cannot listen on {host}, port {port}: {error}") from error
    stop = threading.Event()
    with stop_on_signals(stop.set):
        typer.echo(f"Serving http://{host}:{server.server_port}/metrics", err=True)
        stop.wait()
    server.shutdown()
    server.server_close()
    thread.join()
