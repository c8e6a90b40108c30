"""Refusing every message of a batch, one by one and in one call.

The reference writes the same rows into a table with the columns and indexes of the retry queue: for
`nack` by one INSERT per message with its values, for `nack_many` by a single INSERT … SELECT from
the log by the messages' ids; each in one transaction, as the nacks are.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import pgque
from bench import references
from bench.arrivals import check, drain_all, fill
from bench.measure import (
    Connection,
    Context,
    Row,
    WorkloadFailed,
    compared,
    interleave,
    stop_autovacuum,
    value,
)

QUEUE, READER = "nack", "reader"
SINGLE, MANY = "nack, one by one", "nack_many"
INSERT_EACH, INSERT_ALL = "one INSERT a message", "one INSERT of all"
COLUMNS = (
    "ev_retry_after, ev_queue, ev_id, ev_time, ev_txid, ev_owner, ev_retry, ev_type, ev_data, "
    "ev_extra1, ev_extra2, ev_extra3, ev_extra4"
)

FROM_LOG = (
    "now(), 1, ev_id, ev_time, ev_txid, 1, 1, ev_type, ev_data, "
    "ev_extra1, ev_extra2, ev_extra3, ev_extra4"
)
VALUES = (
    "%s::timestamptz, %s::int, %s::bigint, %s::timestamptz, %s::xid8, %s::int, %s::int, "
    "%s::text, %s::text, %s::text, %s::text, %s::text, %s::text"
)


def nacks(context: Context) -> list[Row]:
    """Workload 14."""
    sizes = context.pick((100, 1000, 5000), (100, 1000, 5000), (10, 50))
    figures: dict[tuple[str, int], list[float]] = {}
    checked = 0
    with ExitStack() as stack:
        client = stack.enter_context(pgque.connect(context.dsn, autocommit=True))
        client.create_queue(QUEUE)
        client.subscribe(QUEUE, READER)
        client.conn.execute("create table plain_retry (like pgque.retry_queue including all)")
        stop_autovacuum(client.conn)
        stop_autovacuum(client.conn, "public")
        # The reference copies rows from the log, so the log needs enough from the start.
        sent = fill(client, QUEUE, sizes[-1], tick_every=None)
        checked += check([sent], drain_all(client, QUEUE, READER, len(sent)), "workload 14")
        ways = [SINGLE, *([MANY] if hasattr(client, "nack_many") else [])]
        for way in ways:
            _nacked(client, way, sizes[0])  # plans
        # Small batches get more turns, so that each covers about as many messages.
        for number in range(context.rounds):
            turn = list(sizes) if number % 2 else list(reversed(sizes))
            for size in turn:
                for _ in range(max(1, min(context.pick(10, 3, 1), 1000 // size))):
                    for way in ways:
                        reference = INSERT_EACH if way == SINGLE else INSERT_ALL
                        contestants = {
                            way: partial(_nacked, client, way, size),
                            reference: partial(_inserted, client.conn, reference, size),
                        }
                        for name, samples in interleave(contestants, 1).items():
                            figures.setdefault((name, size), []).extend(samples)
                        checked += size
    return [row for way in ways for row in _rows(way, sizes, figures, checked)]


def _nacked(client: pgque.PgqueClient, way: str, size: int) -> float:
    """Nack a whole batch; check that each message is redelivered once; return µs per message."""
    sent = fill(client, QUEUE, size, tick_every=None)
    messages = client.receive(QUEUE, READER, size)
    if [message.msg_id for message in messages] != list(sent):
        raise WorkloadFailed(f"workload 14: {size} sent, {len(messages)} received")
    batch_id = messages[0].batch_id
    began = time.perf_counter()
    with client.conn.transaction():
        if way == MANY:
            many: Any = client
            many.nack_many(batch_id, messages, 0)
        else:
            for message in messages:
                client.nack(batch_id, message, 0)
    seconds = time.perf_counter() - began
    if client.ack(batch_id) != 1:
        raise WorkloadFailed("workload 14: an ack was refused")
    returned = value(client.conn, "select pgque.maint_retry_events()")
    if returned != size:
        raise WorkloadFailed(f"workload 14: {size} nacked, {returned} put back")
    check([sent], drain_all(client, QUEUE, READER, size), f"workload 14, {way}")
    return seconds / size * 1e6


def _inserted(conn: Connection, way: str, size: int) -> float:
    """Write the rows that the nacks wrote, from the same log; return µs per message."""
    log = references.log_child(conn, QUEUE)
    select = f"select {FROM_LOG} from {log} where ev_owner is null "
    newest = f"{select} order by ev_id desc limit %s".encode()
    rows = conn.execute(newest, [size]).fetchall()
    single = f"insert into plain_retry ({COLUMNS}) values ({VALUES})".encode()
    many = f"insert into plain_retry ({COLUMNS}) {select} and ev_id = any(%b::bigint[])".encode()
    ids = [row[2] for row in rows]
    began = time.perf_counter()
    with conn.transaction():
        if way == INSERT_EACH:
            for row in rows:
                conn.execute(single, row)
        else:
            conn.execute(many, [ids])
    seconds = time.perf_counter() - began
    if value(conn, "select count(*) from plain_retry") != size:
        raise WorkloadFailed("workload 14: the reference wrote something else")
    conn.execute("truncate plain_retry")
    return seconds / size * 1e6


def _rows(
    way: str, sizes: tuple[int, ...], figures: dict[tuple[str, int], list[float]], checked: int
) -> list[Row]:
    reference = INSERT_EACH if way == SINGLE else INSERT_ALL
    rows = []
    for size in sizes:
        rows.append(
            compared(
                14,
                f"{way}, batch of {size:,}",
                "µs per message",
                figures[way, size],
                reference=reference,
                reference_samples=figures[reference, size],
                goal="<= 2" if way == MANY else "",
            )
        )
        rows[-1].detail |= {"every event arrived": checked, "batch": size, "way": way}
    for size in sizes[1:]:
        rows.append(
            compared(
                14,
                f"{way}, {size:,} beside {sizes[0]:,}",
                "µs per message",
                figures[way, size],
                reference=f"batch of {sizes[0]:,}",
                reference_samples=figures[way, sizes[0]],
                goal="<= 1.2",
            )
        )
    return rows


WORKLOADS = {14: nacks}
