"""A queue in the middle of its work, and the check that every consumer gets the rest."""

import itertools
from typing import Any

import psycopg

from tests.fix_engine import (
    Connection,
    Message,
    ack,
    column,
    configure,
    drain,
    ids,
    nack,
    payloads,
    receive,
    receive_coop,
    send,
    send_many,
    settle,
    subscribe,
    tick,
    value,
)

DEAD = "select ev_id, dl_reason, ev_data from pgque.dead_letter order by ev_id"


class Backlog:
    """Work set up before a move of the database; `check` verifies afterwards that nothing is lost.

    `ahead` has finished everything. `half` has acked part of a batch and holds another part.
    `retrying` has three pending retries and one dead letter. `behind` has received nothing. In
    group `g`, member `a` holds a piece that it does not ack before the move.
    """

    def __init__(self, dsn: str) -> None:
        conn = psycopg.connect(dsn, autocommit=True)
        value(conn, "select pgque.create_queue('q')")
        subscribe(conn, "q", "ahead", "half", "retrying", "behind")
        value(conn, "select pgque.register_subconsumer('q', 'g', 'a')")
        value(conn, "select pgque.register_subconsumer('q', 'g', 'b')")
        self.acked: dict[str, set[int]] = {
            name: set() for name in ("ahead", "half", "retrying", "behind", "g")
        }
        self.sent = {ev_id: str(n) for n, ev_id in enumerate([*send_many(conn, "q", 20)], start=1)}
        tick(conn, "q")
        configure(conn, "q", max_retries=0)
        self._take(conn, "retrying", 8, dead=1)
        configure(conn, "q", max_retries=5)
        self._take(conn, "retrying", 8, again=3)
        self._take(conn, "half", 7)
        self.held = receive(conn, "q", "half", 5)
        self._take_as(conn, "b", 4)
        self.piece = receive_coop(conn, "q", "g", "a", 6)
        self._send(conn, "second window")
        tick(conn, "q")
        self.acked["ahead"] |= set(ids(drain(conn, "q", "ahead")))
        assert self.acked["ahead"] == set(self.sent)
        self._send(conn, "not ticked")
        self.dead = conn.execute(DEAD).fetchall()
        assert len(self.dead) == 1
        # The test decides how this transaction ends. Its event stays invisible until then.
        self.open = psycopg.connect(dsn)
        self.undecided = {send(self.open, "q", "never committed"): "never committed"}
        self.conn = conn

    def prepare(self, name: str) -> int:
        """Send in a prepared transaction. Return the event's id."""
        with psycopg.connect(self.conn.info.dsn) as producer:
            sent = send(producer, "q", name)
            producer.execute(f"prepare transaction '{name}'".encode())
            return sent

    def leave(self) -> None:
        """Close all connections, including the one with the open transaction."""
        self.open.close()
        self.conn.close()

    def check(self, conn: Connection, committed: dict[int, str] | None = None) -> dict[str, int]:
        """Check that every consumer gets the rest and new events, once. Return the figures."""
        self.sent |= committed or {}
        self._send(conn, "after the move")
        settle(conn, "q")
        assert receive(conn, "q", "half", 5) == self.held
        assert ack(conn, self.held) == 1
        self.acked["half"] |= set(ids(self.held))
        assert receive_coop(conn, "q", "g", "a", 6) == self.piece
        assert ack(conn, self.piece) == 1
        self.acked["g"] |= set(ids(self.piece))
        assert conn.execute(DEAD).fetchall() == self.dead
        value(conn, "select pgque.maint_retry_events()")
        settle(conn, "q")
        figures = {"delivered": 0, "lost": 0, "delivered twice": 0}
        for _ in range(2):
            for consumer, acked in self.acked.items():
                got = self._drain_group(conn) if consumer == "g" else drain(conn, "q", consumer, 3)
                figures["delivered"] += len(got)
                figures["lost"] += len(self.sent.keys() - acked - set(ids(got)))
                figures["delivered twice"] += len(got) - len(set(ids(got)) - acked)
                assert sorted(ids(got)) == sorted(self.sent.keys() - acked), consumer
                assert payloads(got) == [self.sent[message.msg_id] for message in got]
                acked |= set(ids(got))
            self._send(conn, "later")
            settle(conn, "q")
        assert column(conn, "select ev_id from pgque.retry_queue") == []
        return figures

    def _send(self, conn: Connection, text: str) -> None:
        self.sent[send(conn, "q", text)] = text

    def _take(
        self, conn: Connection, consumer: str, count: int, *, again: int = 0, dead: int = 0
    ) -> None:
        """Receive and ack. The first messages become dead letters (`dead`) or retries (`again`)."""
        batch = receive(conn, "q", consumer, count)
        assert len(batch) == count
        for message in batch[: again + dead]:
            nack(conn, message, "0", "refused")
        assert ack(conn, batch) == 1
        self.acked[consumer] |= set(ids(batch[again:]))

    def _take_as(self, conn: Connection, member: str, count: int) -> None:
        batch = receive_coop(conn, "q", "g", member, count)
        assert ack(conn, batch) == 1
        self.acked["g"] |= set(ids(batch))

    def _drain_group(self, conn: Connection) -> list[Message]:
        got: list[Message] = []
        idle = 0
        for member in itertools.cycle("ab"):
            batch: list[Any] = receive_coop(conn, "q", "g", member, 3)
            if batch:
                got += batch
                assert ack(conn, batch) == 1
            idle = 0 if batch else idle + 1
            if idle == 2:
                return got
        raise AssertionError("unreachable")
