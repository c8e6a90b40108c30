"""The demo's queue and schema in the database. Both are removed at its end."""

from __future__ import annotations

from typing import Final

from pgque.client import PgqueClient
from pgque.errors import PgqueError, PgquePermissionDenied, mapped
from pgque.wire.calls import is_pooled

QUEUE: Final = "demo_flights"
MAX_RETRIES: Final = 2
GROUP: Final = "gates"
MEMBERS: Final = ("gates-1", "gates-2")

_MARK: Final = "Tables of pgque demo, dropped when it ends."

_TABLES: Final = """
create schema pgque_demo;
comment on schema pgque_demo is 'Tables of pgque demo, dropped when it ends.';

-- Written by the producer in the transaction that sends.
create table pgque_demo.sent (
    flight text not null,
    call text not null,
    departure timestamp not null
);

-- Written by each handler in the transaction that acks. No key, so that duplicates show.
create table pgque_demo.delivery (
    consumer text not null,
    member text not null,
    flight text not null,
    latency double precision not null,
    delivered_at timestamptz not null default clock_timestamp()
);

create table pgque_demo.delays (
    carrier text primary key,
    departures int not null,
    minutes int not null,
    mean numeric generated always as (round(minutes::numeric / departures, 2)) stored
);

-- One row per flight: group members that updated shared rows would block each other.
create table pgque_demo.gates (
    airport text not null,
    day int not null,
    flight text not null
);

-- Written outside the handlers' transactions, so that notes survive a rollback.
create table pgque_demo.note (
    note_id bigint generated always as identity primary key,
    member text not null,
    kind text not null,
    detail jsonb not null
);
"""


def take_lock(client: PgqueClient) -> None:
    """Keep other demos out of this database while the client's connection is open."""
    if is_pooled(client.conn):
        raise PgqueError("the demo needs a session lock: connect directly, not through a pooler")
    with mapped:
        row = client.conn.execute("select pg_try_advisory_lock(1885827449, 0)").fetchone()
    if row is None or not row[0]:
        raise PgqueError("another demo is running in this database: wait until it ends")


def set_up(client: PgqueClient) -> bool:
    """Create the queue, its consumers and the tables. Return whether it removed leftovers first."""
    leftovers = tear_down(client)
    _check_rights(client)
    with mapped, client.conn.transaction():
        if client.create_queue(QUEUE) == 0:
            raise PgqueError(f"a queue {QUEUE} already exists, and it does not belong to the demo")
        client.set_queue_config(QUEUE, "max_retries", MAX_RETRIES)
        client.subscribe(QUEUE, "delays")
        client.subscribe(QUEUE, "audit")
        for member in MEMBERS:
            client.subscribe_subconsumer(QUEUE, GROUP, member)
        client.conn.execute(_TABLES)
    return leftovers


def _check_rights(client: PgqueClient) -> None:
    with mapped:
        row = client.conn.execute(
            "select has_database_privilege(current_database(), 'create')"
        ).fetchone()
    if row is None or not row[0]:
        user, database = client.conn.info.user, client.conn.info.dbname
        raise PgquePermissionDenied(
            f"the demo needs to create a schema: grant create on database {database} to {user}"
        )


def tear_down(client: PgqueClient) -> bool:
    """Remove the demo's queue and schema in one transaction. Return whether they existed."""
    with mapped, client.conn.transaction():
        row = client.conn.execute(
            "select obj_description(oid, 'pg_namespace')"
            " from pg_namespace where nspname = 'pgque_demo'"
        ).fetchone()
        if row is None:
            return False
        if row[0] != _MARK:
            raise PgqueError(
                "a schema pgque_demo already exists, and it does not belong to the demo"
            )
        # Processes of an ended demo may still hold locks, but not for long.
        client.conn.execute("set local lock_timeout = '5s'")
        if any(info.queue_name == QUEUE for info in client.queue_info()):
            client.drop_queue(QUEUE, force=True)
        client.conn.execute("set local client_min_messages = warning")
        client.conn.execute("drop schema pgque_demo cascade")
    return True
