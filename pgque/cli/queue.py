"""`pgque queue`: create, drop, list, show, set, pause, resume."""

from __future__ import annotations

from typing import Annotated

import typer

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_done, print_json, print_record, print_table
from pgque.client import connect
from pgque.watching.states import of_consumer, of_queue

app = typer.Typer(help="Create, inspect and change queues.", no_args_is_help=True)

Queue = Annotated[str, typer.Argument(help="The queue's name.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Drop it even if consumers are subscribed.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Param = Annotated[
    str, typer.Argument(help="The setting, such as ticker_max_lag.", show_default=False)
]
Value = Annotated[
    str | None,
    typer.Argument(help="Its value. Leave it out to restore the default.", show_default=False),
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SETTING=VALUE",
        help="A setting of the new queue, such as max_retries=2; may be repeated.",
        show_default=False,
    ),
]


@app.command()
def create(dsn: Dsn, queue: Queue, set_: Settings = None, as_json: AsJson = False) -> None:
    """Create a queue, if it does not exist. An existing queue keeps its settings."""
    settings = dict(map(_setting, set_ or ()))
    with connect(dsn, autocommit=True) as client:
        made = client.create_queue(queue, settings or None)
    text = f"The queue {queue} {'was created' if made else 'already exists'}."
    if settings and not made:
        text += f" Its settings were not changed: see pgque queue set {queue} --help"
    print_done(as_json, {"queue": queue, "created": bool(made)}, text)


def _setting(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise typer.BadParameter(f"--set takes SETTING=VALUE, not {text}")
    return name, value


@app.command()
def drop(
    dsn: Dsn, queue: Queue, force: Force = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Drop a queue and its events, retries and dead letters."""
    if not yes:
        typer.confirm(f"Drop the queue {queue} and everything in it?", abort=True)
    with connect(dsn, autocommit=True) as client:
        client.drop_queue(queue, force)
    print_done(as_json, {"queue": queue, "dropped": True}, f"The queue {queue} was dropped.")


@app.command("list")
def list_(dsn: Dsn, as_json: AsJson = False) -> None:
    """List queues with their state, rate, new events and last tick."""
    with connect(dsn, autocommit=True) as client:
        queues = {info.queue_name: info for info in client.queue_info()}
        consumers = client.consumer_wait()
        states = {one.queue_name: one.state for one in client.queue_wait()}
    rows = []
    for name, info in queues.items():
        readers = [one for one in consumers if one.queue_name == name]
        state = of_queue(states.get(name, "ok"), [of_consumer(one.state) for one in readers])
        rows.append(
            {
                "queue": name,
                "state": state.word,
                "events_per_second": info.ev_per_sec,
                "new": info.ev_new,
                "last_tick": info.ticker_lag,
                "consumers": sum(one.group_name is None for one in readers),
                "oldest_waiting": max((one.waiting for one in readers), default=None),
                "paused": info.queue_ticker_paused,
            }
        )
    if as_json:
        print_json(rows)
    else:
        print_table(rows, empty="No queues. Create one: pgque queue create NAME")


@app.command()
def show(dsn: Dsn, queue: Queue, as_json: AsJson = False) -> None:
    """Show a queue's settings, its state and its consumers."""
    with connect(dsn, autocommit=True) as client:
        [info] = client.queue_info(queue)
        consumers = client.consumer_wait(queue)
    found = info._asdict()
    readers = [{k: v for k, v in one._asdict().items() if k != "queue_name"} for one in consumers]
    if as_json:
        print_json({**found, "consumers": readers})
        return
    print_record({name.removeprefix("queue_"): value for name, value in found.items()})
    typer.echo()
    print_table(readers, empty="No consumers.")


@app.command("set")
def set_(
    dsn: Dsn, queue: Queue, param: Param, value: Value = None, as_json: AsJson = False
) -> None:
    """Change one setting of a queue."""
    with connect(dsn, autocommit=True) as client:
        client.set_queue_config(queue, param, value)
    text = f"{param} of {queue} is now {'the default' if value is None else value}."
    print_done(as_json, {"queue": queue, "setting": param, "value": value}, text)


@app.command()
def pause(dsn: Dsn, queue: Queue, as_json: AsJson = False) -> None:
    """Stop ticking a queue. Its events are kept and delivered once it is resumed."""
    with connect(dsn, autocommit=True) as client:
        client.set_queue_config(queue, "ticker_paused", True)
    text = f"{queue} is paused: its events wait. Resume it: pgque queue resume {queue}"
    print_done(as_json, {"queue": queue, "paused": True}, text)


@app.command()
def resume(dsn: Dsn, queue: Queue, as_json: AsJson = False) -> None:
    """Start ticking a paused queue again."""
    with connect(dsn, autocommit=True) as client:
        client.set_queue_config(queue, "ticker_paused", None)
    print_done(as_json, {"queue": queue, "paused": False}, f"{queue} was resumed.")
