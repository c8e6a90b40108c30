"""`pgque dead`: list, show, replay, purge."""

from __future__ import annotations

from typing import Annotated

import typer

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson, print_done, print_json, print_record, print_table
from pgque.cli.queue import Queue, Yes
from pgque.client import connect
from pgque.wire.calls import SECONDS_A_DAY

app = typer.Typer(help="List dead letters, replay them or delete them.", no_args_is_help=True)

Limit = Annotated[int, typer.Option("--limit", help="Show at most this many, newest first.")]
Number = Annotated[
    int, typer.Argument(metavar="ID", help="The id that `list` shows.", show_default=False)
]
Numbers = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID", help="The ids that `list` shows.", show_default=False),
]
AllOf = Annotated[
    str | None,
    typer.Option("--all", metavar="QUEUE", help="All dead letters of a queue.", show_default=False),
]
Days = Annotated[
    float, typer.Option("--days", min=0, help="Delete letters older than this many days.")
]


@app.command("list")
def list_(dsn: Dsn, queue: Queue, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List the dead letters of a queue, newest first."""
    with connect(dsn, autocommit=True) as client:
        letters = client.dead_letters(queue, limit)
    if as_json:
        print_json([letter._asdict() for letter in letters])
        return
    print_table(
        [
            {
                "id": letter.dl_id,
                "consumer": letter.consumer_name,
                "died": letter.dl_time,
                "type": letter.ev_type,
                "retries": letter.ev_retry,
                "reason": _short(letter.dl_reason),
                "payload": _short(letter.ev_data),
            }
            for letter in letters
        ],
        empty=f"{queue} has no dead letters.",
    )


@app.command()
def show(dsn: Dsn, number: Number, as_json: AsJson = False) -> None:
    """Show one dead letter in full."""
    with connect(dsn, autocommit=True) as client:
        letter = client.dead_letter(number)
    if as_json:
        print_json(letter._asdict())
    else:
        print_record(letter._asdict())


@app.command()
def replay(dsn: Dsn, numbers: Numbers = None, queue: AllOf = None, as_json: AsJson = False) -> None:
    """Send dead letters again, to every consumer of their queue: by id, or --all of a queue."""
    if bool(numbers) == (queue is not None):
        raise typer.BadParameter("give either ids or --all QUEUE")
    with connect(dsn, autocommit=True) as client:
        for number in numbers or ():
            event = client.replay(number)
            text = f"Dead letter {number} was sent again as event {event}."
            print_done(as_json, {"id": number, "event": event}, text)
        if queue is not None:
            done = client.replay_all(queue)
            text = f"{done.replayed:,} sent again, {done.failed:,} failed."
            print_done(as_json, {"replayed": done.replayed, "failed": done.failed}, text)
            if done.failed:
                typer.echo(f"pgque: first error: {done.first_error}", err=True)
                raise typer.Exit(1)


@app.command()
def purge(
    dsn: Dsn, queue: Queue, days: Days = 30, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Permanently delete old dead letters of a queue."""
    if not yes:
        typer.confirm(f"Delete the dead letters of {queue} older than {days:g} days?", abort=True)
    with connect(dsn, autocommit=True) as client:
        deleted = client.purge(queue, days * SECONDS_A_DAY)
    print_done(as_json, {"queue": queue, "deleted": deleted}, f"{deleted:,} deleted.")


def _short(text: str | None, longest: int = 60) -> str | None:
    return text if text is None or len(text) <= longest else f"{text[: longest - 1]}…"
