"""A primary dies and its standby is promoted. The client's DSN names both hosts.

A synchronous standby loses no acknowledged commit. An asynchronous one loses the last moments:
events disappear, and messages whose ack is lost are redelivered.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pgque
from bench.chaos.crew import Crew
from bench.chaos.history import History, check, counts
from bench.chaos.journal import read_attempts, read_transactions
from bench.chaos.tables import (
    CONSUMERS,
    GROUP,
    HANDLERS,
    PRODUCERS,
    QUEUE,
    ROLE,
    TICKERS,
    left_to_do,
    read_dead,
    read_effects,
    set_up,
)
from pgque import embedded
from pgque.embedded.binaries import find_account
from tests.fix_engine import value
from tests.fix_server import wanted_version
from tests.running import eventually

STANDBY = "standby"


class Pair:
    """A primary and its standby, of the requested embedded version."""

    def __init__(self, new_server: Callable[..., embedded.Server], home: Path) -> None:
        version = wanted_version() if wanted_version() in embedded.VERSIONS else None
        self.primary = new_server(version=version)
        set_up(self.primary.dsn)
        copy = home / "copy"
        copy.mkdir(mode=0o711)
        source = make_conninfo(self.primary.dsn, application_name=STANDBY)
        subprocess.run(
            [
                str(self.primary.bin_dir / "pg_basebackup"),
                *("--pgdata", str(copy / "data"), "--dbname", source),
                *("--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream"),
            ],
            check=True,
            capture_output=True,
        )
        if (account := find_account()) is not None:
            for path in [copy / "data", *(copy / "data").rglob("*")]:
                os.chown(path, account.uid, account.gid)
        self.standby = new_server(data_dir=copy)

    def dsn(self, role: str) -> str:
        """Return one connection string for both that selects the writable server."""
        each = [conninfo_to_dict(server.dsn) for server in (self.primary, self.standby)]
        return make_conninfo(
            "",
            host=",".join(str(one["host"]) for one in each),
            port=",".join(str(one["port"]) for one in each),
            user=role,
            dbname="postgres",
            target_session_attrs="read-write",
        )

    @contextlib.contextmanager
    def to_primary(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.primary.dsn, autocommit=True) as conn:
            yield conn

    @contextlib.contextmanager
    def to_standby(self) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.standby.dsn, autocommit=True) as conn:
            yield conn

    def make_synchronous(self) -> None:
        with self.to_primary() as conn:
            conn.execute(f"alter system set synchronous_standby_names = '{STANDBY}'")
            conn.execute("select pg_reload_conf()")
            sync = "select count(*) from pg_stat_replication where sync_state = 'sync'"
            eventually(lambda: value(conn, sync) == 1, "a synchronous standby")

    def stop_streaming(self) -> None:
        """Let the standby catch up, then cut it off from later changes."""
        with self.to_primary() as conn, self.to_standby() as standby:
            there = value(conn, "select pg_current_wal_insert_lsn()")
            replayed = "select pg_last_wal_replay_lsn() >= %s"
            eventually(lambda: value(standby, replayed, there), "replay")
            standby.execute("alter system set primary_conninfo = ''")
            standby.execute("select pg_reload_conf()")
            receivers = "select count(*) from pg_stat_wal_receiver"
            eventually(lambda: value(standby, receivers) == 0, "no receiver")
            eventually(lambda: value(conn, "select count(*) from pg_stat_replication") == 0)

    def kill_primary(self) -> None:
        """Kill all its processes at once, like the loss of a machine."""
        pid = int((self.primary.data_dir / "data" / "postmaster.pid").read_text().split("\n")[0])
        postmaster = psutil.Process(pid)
        postmaster.send_signal(signal.SIGSTOP)  # so that it starts no replacements
        for process in [*postmaster.children(recursive=True), postmaster]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def promote(self) -> None:
        with self.to_standby() as conn:
            assert value(conn, "select pg_promote()")


@pytest.fixture
def pair(new_server: Callable[..., embedded.Server], home: Path) -> Iterator[Pair]:
    pair = Pair(new_server, home)
    yield pair
    pair.standby.stop()  # before the test removes its folder


def test_p1_p3_failover_to_a_synchronous_standby_loses_and_repeats_nothing(
    pair: Pair, tmp_path: Path
) -> None:
    pair.make_synchronous()
    delivered = "select count(*) from chaos_effect where consumer = %s"
    with Crew(pair.dsn(ROLE), (*TICKERS, *HANDLERS, *PRODUCERS), 40.0, tmp_path) as crew:
        with pair.to_primary() as conn:
            for consumer in CONSUMERS:
                eventually(lambda c=consumer: value(conn, delivered, c) >= 200, consumer)
        pair.kill_primary()
        pair.promote()
        promoted = time.time()

        def sent_since(name: str) -> list[str]:
            return [
                key
                for transaction in read_transactions(tmp_path)
                if transaction.at > promoted and transaction.outcome == "sent"
                for key in transaction.keys
                if key.startswith(name)
            ]

        for name in PRODUCERS:
            eventually(lambda n=name: len(sent_since(n)) >= 50, f"more events from {name}")
        crew.stop(*PRODUCERS)
        transactions = read_transactions(tmp_path)
        sent = [key for each in transactions if each.outcome == "sent" for key in each.keys]
        with pair.to_standby() as conn:
            eventually(lambda: left_to_do(conn, sent) == 0, "the delivery of all events")
    # No process was restarted.
    assert crew.crashed == []
    assert crew.refused == 0
    with pair.to_standby() as conn:
        effects, dead = read_effects(conn), read_dead(conn)
    attempts = read_attempts(tmp_path)
    history = History(CONSUMERS, transactions, effects, attempts, dead, groups=(GROUP,))
    assert check(history).by_kind == check(History((), (), ())).by_kind
    assert counts(transactions)["sent"] > 200


def test_failover_to_an_asynchronous_standby_loses_the_last_sends_and_repeats_the_last_acks(
    pair: Pair,
) -> None:
    note = "insert into chaos_business (key) values (%s)"
    with pgque.connect(pair.dsn("postgres"), autocommit=True) as client:
        client.unsubscribe(QUEUE, "pair")
        for payload in ("a", "b"):
            client.send(QUEUE, payload)
        client.ticker(QUEUE)
        pair.stop_streaming()
        # From here on the standby receives nothing that the primary acknowledges.
        with client.conn.transaction():
            messages = client.receive(QUEUE, "solo")
            assert [message.payload for message in messages] == ["a", "b"]
            for message in messages:
                client.conn.execute(note, [message.payload])
            assert client.ack(messages[0].batch_id) == 1
        client.send(QUEUE, "lost")
        pair.kill_primary()
    pair.promote()
    with pgque.connect(pair.dsn("postgres"), autocommit=True) as client:
        # The acked messages are delivered again. The handler's writes were lost with the ack, so
        # their effect still happens once.
        assert client.conn.execute("select key from chaos_business").fetchall() == []
        with client.conn.transaction():
            messages = client.receive(QUEUE, "solo")
            assert [message.payload for message in messages] == ["a", "b"]
            for message in messages:
                client.conn.execute(note, [message.payload])
            assert client.ack(messages[0].batch_id) == 1
        client.send(QUEUE, "c")
        client.ticker(QUEUE)
        [message] = client.receive(QUEUE, "solo")
        assert message.payload == "c"
        assert client.conn.execute("select key from chaos_business").fetchall() == [("a",), ("b",)]
