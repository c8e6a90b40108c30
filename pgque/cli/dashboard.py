"""`pgque dashboard`."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer

from pgque.cli.options import CommandError, Dsn, log_to_stderr

Host = Annotated[str, typer.Option("--host", help="The address to listen on.")]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="The port; 0 picks a free one.")
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        metavar="NAME",
        help="A host name that clients may use, in addition to localhost; may be repeated.",
        show_default=False,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="PGQUE_DASHBOARD_TOKEN",
        help="The token that replay and purge require. Without one the dashboard is read-only. "
        "Other users of this machine can see a command's options: prefer the environment.",
        show_default=False,
    ),
]
Private = Annotated[bool, typer.Option("--private", help="Require the token for reading too.")]
Open = Annotated[bool, typer.Option("--open", help="Open the dashboard in the browser.")]


def command(
    dsn: Dsn,
    host: Host = "127.0.0.1",
    port: Port = 8742,
    allow_host: AllowHost = None,
    token: Token = None,
    private: Private = False,
    open_: Open = False,
) -> None:
    """Serve a web page with live figures of queues and consumers, until Ctrl-C.

    Anyone who can reach the address can read events, so by default only this machine can.
    """
    from pgque.dashboard import create_app
    from pgque.dashboard.security import LOOPBACK
    from pgque.dashboard.serve import bind, serve
    from pgque.dashboard.snapshot import Snapshotter, reading_connection

    names = [*LOOPBACK, *(allow_host or ())]
    if not _is_every_address(host):
        names.append(host)
    elif not allow_host:
        raise CommandError(f"--host {host} also needs the name that clients use: --allow-host NAME")
    app = create_app(dsn, token=token or None, private=private, allowed_hosts=names, always=True)
    with reading_connection(dsn) as conn:
        Snapshotter(conn).take()  # so that errors show here rather than on the page
    try:
        listening = bind(host, port)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}"
        ) from error
    log_to_stderr()
    with listening:
        url = _url(host, listening.getsockname()[1])

        def ready() -> None:
            typer.echo(f"The dashboard is at {url}", err=True)
            if open_:
                typer.launch(url)

        serve(app, listening, ready)


def _is_every_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def _url(host: str, port: int) -> str:
    shown = "localhost" if _is_every_address(host) else host
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
