"""What the demo keeps in the database: a queue and a schema of its own, both gone at its end."""

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

-- Written by each handler in the transaction that acks. No key: a second delivery is to be seen.
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

-- A row for each flight: members of a group that updated shared rows would wait for each other.
create table pgque_demo.gates (
    airport text not null,
    day int not null,
    flight text not null
);

-- Written outside of the handlers' transactions, so that it stays when these are undone.
create table pgque_demo.note (
    note_id bigint generated always as identity primary key,
    member text not null,
    kind text not null,
    detail jsonb not null
);
"""


def take_lock(client: PgqueClient) -> None:
    """Keep other demos out of this database as long as the client's connection lives."""
    if is_pooled(client.conn):
        raise PgqueError("the demo locks its session: connect it directly, not through a pooler")
    with mapped:
        row = client.conn.execute("select pg_try_advisory_lock(1885827449, 0)").fetchone()
    if row is None or not row[0]:
        raise PgqueError("another demo runs in this database: wait until it ends")


def set_up(client: PgqueClient) -> bool:
    """Make the queue, its consumers and the tables; tell whether leftovers had to go first."""
    leftovers = tear_down(client)
    _check_rights(client)
    with mapped, client.conn.transaction():
        if client.create_queue(QUEUE) == 0:
            raise PgqueError(f"there is a queue {QUEUE} already, and it is not the demo's")
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
            f"the demo needs a schema of its own: grant create on database {database} to {user}"
        )


def tear_down(client: PgqueClient) -> bool:
    """Remove what a demo made, all of it or nothing; tell whether there was anything."""
    with mapped, client.conn.transaction():
        row = client.conn.execute(
            "select obj_description(oid, 'pg_namespace')"
            " from pg_namespace where nspname = 'pgque_demo'"
        ).fetchone()
        if row is None:
            return False
        if row[0] != _MARK:
            raise PgqueError("there is a schema pgque_demo already, and it is not the demo's")
        # Who still reads or writes there is about to notice that its demo has ended.
        client.conn.execute("set local lock_timeout = '5s'")
        if any(info.queue_name == QUEUE for info in client.queue_info()):
            client.drop_queue(QUEUE, force=True)
        client.conn.execute("set local client_min_messages = warning")
        client.conn.execute("drop schema pgque_demo cascade")
    return True
