"""`pgque consumer`: subscribe, unsubscribe, list, seek."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_done, print_json, print_table
from pgque.cli.queue import Queue, Yes
from pgque.client import connect

app = typer.Typer(help="Subscribe consumers, list them and move them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The consumer's name.", show_default=False)]
OnlyQueue = Annotated[
    str | None, typer.Argument(help="Only consumers of this queue.", show_default=False)
]
Tick = Annotated[
    int | None, typer.Option("--tick", help="The tick to move to.", show_default=False)
]
At = Annotated[
    datetime | None,
    typer.Option(
        "--at",
        formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"],
        help="A time in this machine's time zone. Events sent after it are delivered again.",
        show_default=False,
    ),
]


@app.command()
def subscribe(dsn: Dsn, queue: Queue, consumer: Name, as_json: AsJson = False) -> None:
    """Subscribe a consumer. It receives the events sent from now on."""
    with connect(dsn, autocommit=True) as client:
        done = client.subscribe(queue, consumer)
    text = f"{consumer} {'is now' if done else 'was already'} subscribed to {queue}."
    print_done(as_json, {"queue": queue, "consumer": consumer, "subscribed": bool(done)}, text)


@app.command()
def unsubscribe(
    dsn: Dsn, queue: Queue, consumer: Name, yes: Yes = False, as_json: AsJson = False
) -> None:
    """End a subscription. The consumer loses the events that it has not received."""
    if not yes:
        typer.confirm(
            f"Unsubscribe {consumer} from {queue} and lose its pending events?", abort=True
        )
    with connect(dsn, autocommit=True) as client:
        done = client.unsubscribe(queue, consumer)
    text = f"{consumer} {'is no longer' if done else 'was not'} subscribed to {queue}."
    print_done(as_json, {"queue": queue, "consumer": consumer, "unsubscribed": bool(done)}, text)


@app.command("list")
def list_(dsn: Dsn, queue: OnlyQueue = None, as_json: AsJson = False) -> None:
    """List consumers with their state, their pending events and the age of the oldest one."""
    with connect(dsn, autocommit=True) as client:
        ticks = {one[:2]: one.last_tick for one in client.consumer_info(queue)}
        rows = [
            {
                "queue": one.queue_name,
                "consumer": one.consumer_name,
                "state": one.state,
                "pending": one.pending_events,
                "waiting": one.waiting,
                "last_seen": one.last_seen,
                "batch": one.current_batch,
                "tick": ticks.get(one[:2]),
            }
            for one in client.consumer_wait(queue)
        ]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, empty="No consumers. Subscribe one: pgque consumer subscribe QUEUE NAME")


@app.command()
def seek(
    dsn: Dsn,
    queue: Queue,
    consumer: Name,
    tick: Tick = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Move a consumer back or forward to --tick or --at, within the history that is kept."""
    if (tick is None) == (at is None):
        raise typer.BadParameter("give either --tick or --at")
    to = tick if at is None else at.astimezone()
    assert to is not None
    with connect(dsn, autocommit=True) as client:
        stands = client.seek(queue, consumer, to)
    text = f"{consumer} is now at tick {stands} of {queue}."
    print_done(as_json, {"queue": queue, "consumer": consumer, "tick": stands}, text)
