"""LISTEN on a connection of its own, with polling as the truth.

A notification is a hint: it says that a look is worth while. Behind a pooler in transaction mode
none arrives and a session cannot keep a lock; `Wakeup.pooled` says so, and callers poll.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

import psycopg
from psycopg import sql

from pgque.calls import CONNECTION_DEFAULTS, settle_for_pooler
from pgque.errors import mapped


def queue_channel(queue: str) -> str:
    """The channel on which every tick of a queue is announced, with the tick id as payload."""
    return f"pgque_{queue}"


class Wakeup:
    """An autocommit connection that listens.

    :param dsn: where to connect, a libpq connection string.
    :param channels: what to listen to.
    :raises PgqueConnectionError: where there is no server to connect to.
    """

    def __init__(self, dsn: str, channels: Iterable[str]) -> None:
        with mapped:
            self.conn = psycopg.connect(dsn, autocommit=True, **CONNECTION_DEFAULTS)
            try:
                self.pooled = settle_for_pooler(self.conn)
                if not self.pooled:
                    for channel in channels:
                        self.conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            except BaseException:
                self.conn.close()
                raise

    def wait(self, timeout: float) -> set[str]:
        """Wait up to `timeout` seconds: the channels that were notified, maybe none.

        :raises PgqueConnectionError: where the connection broke.
        """
        with mapped:
            notified = {n.channel for n in self.conn.notifies(timeout=timeout, stop_after=1)}
            if notified:
                # What else has arrived belongs to the same look.
                notified |= {n.channel for n in self.conn.notifies(timeout=0)}
            return notified

    def close(self) -> None:
        """Close the connection."""
        self.conn.close()

    def __enter__(self) -> Wakeup:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
