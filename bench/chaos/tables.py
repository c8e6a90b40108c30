"""The tables of a run, and the names of its producers and consumers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import sql

from bench.chaos.history import Dead, Effect
from pgque.client import PgqueClient
from pgque.install import install

QUEUE: Final = "chaos"
ROLE: Final = "chaos_app"
"""The role of all processes: no superuser, because some connections are reserved for those."""
OTHER_ROLE: Final = "chaos_other"
"""A role without privileges that a handler may switch to."""
GATE: Final = "chaos_gate"
"""The first table that pg_dump locks. A lock on it holds the dump after its snapshot."""

CONSUMERS: Final = ("pair", "solo", "crew")
GROUP: Final = "crew"
PRODUCERS: Final = ("single", "batches", "transactions")
HANDLERS: Final = {
    "pair-1": ("pair", None),
    "pair-2": ("pair", None),
    "solo": ("solo", None),
    "crew-a": ("crew", "a"),
    "crew-b": ("crew", "b"),
    "crew-c": ("crew", "c"),
}
"""The consumers' processes: two with one name, a single one, and a group of three members."""
NAMES_WITH_STANDBY: Final = ("pair",)
TICKERS: Final = ("ticker-1", "ticker-2")

RETRY_AFTER: Final = 1.0
MAX_RETRIES: Final = 10
"""MAX_RETRIES times RETRY_AFTER is longer than any outage of the run."""
DEAD_INTERVAL: Final = 2.0
ROTATION: Final = "5 seconds"
LEDGER_BYTES: Final = 131072

_TABLES = """
    create table chaos_effect (
        number bigint generated always as identity,
        consumer text not null,
        batch bigint not null,
        message bigint not null,
        retry int not null,
        key text not null,
        at timestamptz not null default clock_timestamp()
    );
    create table chaos_business (key text not null);
    create table chaos_parent (id int primary key);
    create table chaos_child (
        parent int not null references chaos_parent deferrable initially deferred
    );
    grant insert on chaos_effect, chaos_business, chaos_child to {role}
"""


def set_up(dsn: str, password: str | None = None) -> None:
    """Install pgque and create the role, the queue, its consumers and the tables, as superuser."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        # The first table that is created has the lowest oid.
        conn.execute(sql.SQL("create table {} ()").format(sql.Identifier(GATE)))
    install(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        role = sql.Identifier(ROLE)
        for name in (ROLE, OTHER_ROLE):
            if not conn.execute("select from pg_roles where rolname = %s", (name,)).fetchone():
                conn.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
        conn.execute(sql.SQL("grant {} to {}").format(sql.Identifier(OTHER_ROLE), role))
        if password is not None:
            conn.execute(sql.SQL("alter role {} password {}").format(role, sql.Literal(password)))
        conn.execute(sql.SQL("grant pgque_admin to {}").format(role))
        conn.execute(sql.SQL(_TABLES).format(role=role))
        # Small, so that the ledger rotates during the run.
        conn.execute("update pgque.config set ledger_max_bytes = %s", (LEDGER_BYTES,))
        client = PgqueClient(conn)
        client.create_queue(QUEUE)
        client.set_queue_config(QUEUE, "rotation_period", ROTATION)
        client.set_queue_config(QUEUE, "max_retries", str(MAX_RETRIES))
        for consumer in CONSUMERS:
            if consumer != GROUP:
                client.subscribe(QUEUE, consumer)
        for consumer, member in HANDLERS.values():
            if member is not None:
                client.subscribe_subconsumer(QUEUE, consumer, member)


def read_effects(conn: psycopg.Connection) -> list[Effect]:
    """Read the effects that handlers committed."""
    query = (
        "select number, consumer, batch, message, retry, key, "
        "extract(epoch from at)::float8 from chaos_effect"
    )
    return [Effect(*row) for row in conn.execute(query)]


def read_dead(conn: psycopg.Connection) -> list[Dead]:
    """Read the dead letters."""
    query = (
        "select co_name, ev_data::jsonb ->> 'key', coalesce(length(dl_reason), 0) "
        "from pgque.dead_letter "
        "join pgque.consumer on co_id = dl_consumer_id"
    )
    return [Dead(*row) for row in conn.execute(query)]


def left_to_do(conn: psycopg.Connection, sent: Sequence[str]) -> int:
    """Count the sent events that are neither handled nor dead letters yet."""
    query = """
        with done as (
            select consumer, key from chaos_effect
            union select co_name, ev_data::jsonb ->> 'key'
            from pgque.dead_letter join pgque.consumer on co_id = dl_consumer_id
        )
        select (select count(*) from pgque.retry_queue)
            + (select count(*) from unnest(%b::text[]) k, unnest(%b::text[]) c
               where not exists (select from done where done.key = k and done.consumer = c))
    """
    row = conn.execute(query, (list(sent), list(CONSUMERS))).fetchone()
    assert row is not None
    return int(row[0])
