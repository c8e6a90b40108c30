"""`pgque tail`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Annotated

import typer

from pgque.cli.options import Dsn
from pgque.cli.output import AsJson
from pgque.cli.queue import Queue
from pgque.message import Message
from pgque.watching.readable import readable

Type = Annotated[
    str | None, typer.Option("--type", help="Only events of this type.", show_default=False)
]
Key = Annotated[
    str | None, typer.Option("--key", help="Only events with this key.", show_default=False)
]
Since = Annotated[
    float | None,
    typer.Option(
        "--since",
        metavar="SECONDS",
        min=0,
        help="Start this long ago, as far as the log reaches.",
        show_default=False,
    ),
]
Follow = Annotated[
    bool, typer.Option("--follow/--no-follow", "-f/-F", help="Wait for new events, until Ctrl-C.")
]

LOOK_EVERY = 1.0
"""Seconds between polls. A tick wakes the command at once, but a paused queue has no ticks."""


def command(
    dsn: Dsn,
    queue: Queue,
    type: Type = None,  # noqa: A002
    key: Key = None,
    since: Since = None,
    follow: Follow = True,
    as_json: AsJson = False,
) -> None:
    """Follow a queue without consuming it: print each event once it is committed."""
    from pgque.tail import Tail
    from pgque.wire.wakeup import Wakeup

    start = None if since is None else max(datetime.now(timezone.utc).timestamp() - since, 0)
    with Wakeup(dsn, [f"pgque_{queue}"]) as wakeup:
        began = None if start is None else datetime.fromtimestamp(start, timezone.utc)
        tail = Tail(wakeup.conn, queue, began)
        while True:
            for message in tail.read():
                if (type is None or message.type == type) and (key is None or message.key == key):
                    typer.echo(_json(message) if as_json else _line(message))
            if not follow:
                return
            wakeup.wait(LOOK_EVERY)


def _line(message: Message) -> str:
    key = "" if message.key is None else f" key={message.key}"
    parts = (message.created_at, str(message.msg_id), f"{message.type}{key}", message.payload)
    return "  ".join(map(readable, parts))


def _json(message: Message) -> str:
    return json.dumps(
        {
            "msg_id": message.msg_id,
            "created_at": message.created_at.isoformat(),
            "type": message.type,
            "payload": message.payload,
            "key": message.extra1,
            "headers": message.extra2,
            "extra3": message.extra3,
            "extra4": message.extra4,
        },
        ensure_ascii=False,
    )
