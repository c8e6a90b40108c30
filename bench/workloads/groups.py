"""A cooperative group: the speed-up by more members, at 5 ms of work per message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pgque
from bench.arrivals import BATCH, check, tick
from bench.measure import Context, Row, WorkloadFailed, compared, figure, interleave, value
from bench.processes import Crew

WORK = 0.005
PIECE = 20
"""Messages per batch of a member: 100 ms of work."""


class Member:
    """A member of a group in its own process."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._consumer: pgque.Consumer | None = None
        self._thread: threading.Thread | None = None
        self._handled: list[tuple[int, float, float]] = []

    def join(self, queue: str, group: str, name: str) -> None:
        """Join a group and consume in a thread."""
        self._handled = handled = []
        self._consumer = pgque.Consumer(
            self._dsn, queue=queue, name=group, subconsumer=name, max_messages=PIECE
        )

        @self._consumer.on("*")
        def handle(message: pgque.Message) -> None:
            began = time.perf_counter()
            time.sleep(WORK)
            handled.append((message.msg_id, began, time.perf_counter()))

        self._thread = threading.Thread(target=self._consumer.start, daemon=True)
        self._thread.start()

    def count(self) -> int:
        """Return the number of messages handled so far."""
        return len(self._handled)

    def leave(self) -> list[tuple[int, float, float]]:
        """Stop; return the id, start and end of each message."""
        assert self._consumer is not None
        assert self._thread is not None
        self._consumer.stop()
        self._thread.join()
        return self._handled


def groups(context: Context) -> list[Row]:
    """Workload 13: members in processes, each with a Consumer; 1, 2, 4, 8 and 16 of them."""
    sizes = context.pick((1, 2, 4, 8, 16), (1, 2, 4, 8, 16), (1, 2))
    per_member = context.pick(400, 100, 40)
    rounds = context.pick(context.rounds, 1, 1)
    checked = 0
    with pgque.connect(context.dsn, autocommit=True) as client:
        client.create_queue("group")
        with Crew(sizes[-1], Member, context.dsn) as crew:
            names = (f"group {number}" for number in range(1000))

            def run(members: int) -> float:
                nonlocal checked
                group = next(names)
                rate, count = _run(client, crew, group, members, per_member * members)
                checked += count
                return rate

            contestants: dict[str, Callable[[], float]] = {
                str(members): partial(run, members) for members in sizes
            }
            figures = interleave(contestants, rounds)
    rows = [figure(13, "1 worker, 5 ms a message", "messages/s", figures["1"])]
    for members in sizes[1:]:
        share = 0.8 if members == 16 else 0.9
        rows.append(
            compared(
                13,
                f"{members} workers, 5 ms a message",
                "messages/s",
                figures[str(members)],
                reference="1 worker",
                reference_samples=figures["1"],
                goal=f">= {share * members:.1f}",
            )
        )
    for row, members in zip(rows, sizes, strict=True):
        row.detail |= {"every event arrived": checked, "workers": members}
    return rows


def _run(
    client: pgque.PgqueClient, crew: Crew, group: str, members: int, count: int
) -> tuple[float, int]:
    """Give a waiting group a backlog; return messages a second and their number."""
    for number in range(members):
        crew.tell(number, "join", "group", group, f"member {number}")
    _wait(lambda: _joined(client, group) == members, "the members to join")
    time.sleep(0.3)
    sent: list[int] = []
    began = time.perf_counter()
    while len(sent) < count:
        sent += client.send_batch("group", "work", ["x"] * min(BATCH, count - len(sent)))
    tick(client, "group")
    _wait(
        lambda: sum(turn.result for turn in crew.call("count", members=members)) >= count,
        "the group to handle the backlog",
    )
    handled = [item for turn in crew.call("leave", members=members) for item in turn.result]
    ended = max(item[2] for item in handled)
    handled.sort()
    ids = [item[0] for item in handled]
    checked = check([sent], ids, f"workload 13, {members} members")
    for number in range(members):
        client.unsubscribe_subconsumer("group", group, f"member {number}")
    client.unsubscribe("group", group)
    return count / (ended - began), checked


def _joined(client: pgque.PgqueClient, group: str) -> int:
    query = (
        "select count(*) from pgque.subscription join pgque.consumer on co_id = sub_consumer "
        "where sub_role = 'coop_member' and co_name like %s || '.%%'"
    )
    return int(value(client.conn, query, group))


def _wait(met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not met():
        if time.monotonic() > deadline:
            raise WorkloadFailed(f"workload 13: waited for {what} in vain")
        time.sleep(0.05)


WORKLOADS = {13: groups}
