"""The faults. Each function makes one, waits, and restores the previous state."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from bench.chaos import network
from bench.chaos.operators import misbehave, restore_dump, set_clock, switch_row_security
from bench.chaos.producers import late
from bench.chaos.scene import Scene
from bench.chaos.tables import GROUP, HANDLERS, QUEUE, ROLE
from pgque.client import PgqueClient


def _kill(scene: Scene) -> None:
    scene.crew.signal(scene.crew.some(scene.chance), signal.SIGKILL)


def _terminate(scene: Scene) -> None:
    scene.crew.signal(scene.crew.some(scene.chance), signal.SIGTERM)


def _hang(scene: Scene) -> None:
    role = scene.crew.some(scene.chance, *HANDLERS, "ticker")
    scene.crew.pause(role, lambda: scene.wait(scene.duration(3.0)))


def _zombie(scene: Scene) -> None:
    """Stop a member of the group at work, for longer than its dead interval."""
    role = scene.crew.some(scene.chance, GROUP)
    group, member = HANDLERS[role]
    found: list[int] = []

    def batch() -> int | None:
        [info] = client.consumer_info(QUEUE, f"{group}.{member}")
        return info.current_batch

    def hold_if_at_work() -> None:
        held = batch()
        if held is not None:
            found.append(held)
            scene.wait(scene.duration(3.5))
            # On a slow machine the takeover by a sibling takes longer.
            deadline = time.monotonic() + 10
            while batch() == held and time.monotonic() < deadline and not scene.ending.is_set():
                scene.wait(0.1)

    with scene.server.control() as conn:
        client = PgqueClient(conn)
        while not found and not scene.ending.is_set():
            if not scene.crew.pause(role, hold_if_at_work):
                return
            scene.wait(0.02)


def _end_sessions(scene: Scene) -> None:
    deadline = time.monotonic() + scene.duration()
    with scene.server.control() as conn:
        while time.monotonic() < deadline and not scene.ending.is_set():
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s "
                "order by random() limit 1",
                (ROLE,),
            )
            scene.wait(scene.chance.uniform(0.02, 0.3))


def _kill_backend(scene: Scene) -> None:
    with scene.server.control() as conn:
        row = conn.execute(
            "select pid from pg_stat_activity where usename = %s order by random() limit 1",
            (ROLE,),
        ).fetchone()
    if row is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(row[0], signal.SIGKILL)


def _restart_fast(scene: Scene) -> None:
    scene.server.restart(immediate=False)


def _restart_immediate(scene: Scene) -> None:
    scene.server.restart(immediate=True)


def _drop(scene: Scene) -> None:
    deadline = time.monotonic() + scene.duration()
    while time.monotonic() < deadline and not scene.ending.is_set():
        scene.proxy.drop(scene.chance.uniform(0.05, 0.5), scene.chance)
        scene.wait(scene.chance.uniform(0.1, 1.0))


def _delay(scene: Scene) -> None:
    scene.proxy.delay(scene.chance.uniform(0.01, 0.3))
    scene.wait(scene.duration())
    scene.proxy.delay(0)


def _black_hole(scene: Scene) -> None:
    scene.proxy.swallow()
    scene.wait(scene.duration())
    scene.proxy.spit()


def _lose_packets(scene: Scene) -> None:
    try:
        network.lose_packets()
        scene.wait(scene.duration(2.0, 12.0))
    finally:
        network.keep_packets()


def _no_connections_left(scene: Scene) -> None:
    """Take all connections, including some of the clients' own."""
    hogs: list[psycopg.Connection] = []
    dsn = psycopg.conninfo.make_conninfo(scene.server.dsn, user=ROLE, application_name="hog")
    deadline = time.monotonic() + scene.duration(2.0)
    with contextlib.ExitStack() as stack, scene.server.control() as conn:
        while time.monotonic() < deadline and not scene.ending.is_set():
            try:
                hogs.append(stack.enter_context(psycopg.connect(dsn, autocommit=True)))
            except psycopg.OperationalError:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s "
                    "and application_name <> 'hog' order by random() limit 3",
                    (ROLE,),
                )
                scene.wait(0.1)


def _setting(name: str, *values: str) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        value = scene.chance.choice(values)
        with scene.server.control() as conn:
            conn.execute(
                sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(value))
            )
            conn.execute("select pg_reload_conf()")
        scene.wait(scene.duration())
        # The server may have been restarted meanwhile.
        for _ in range(10):
            with contextlib.suppress(psycopg.OperationalError), scene.server.control() as conn:
                conn.execute(sql.SQL("alter system reset {}").format(sql.Identifier(name)))
                conn.execute("select pg_reload_conf()")
                return

    return change


def _idle_transaction(scene: Scene) -> None:
    """Hold a snapshot and a transaction id."""
    with contextlib.suppress(psycopg.OperationalError), scene.server.control() as conn:
        conn.execute("begin isolation level repeatable read")
        conn.execute("select pg_current_xact_id()")
        scene.wait(scene.duration(4.0, 15.0))
        conn.execute("rollback")


def _late_commit(scene: Scene) -> None:
    """Send, and commit only after several ticks and rotations."""
    with scene.server.control() as conn:
        conn.autocommit = False
        sending = late(conn, scene.journal, [next(scene.keys) for _ in range(3)])
        for _ in sending:
            scene.wait(scene.duration(4.0, 15.0))


def _poison(scene: Scene) -> None:
    with scene.server.control() as conn:
        conn.autocommit = False
        for _ in late(conn, scene.journal, [next(scene.keys) for _ in range(5)], poison=True):
            pass


def _full_disk(scene: Scene) -> None:
    scene.server.fill_disk()
    scene.wait(scene.duration(2.0))
    scene.server.clear_disk()


@dataclass(frozen=True)
class Fault:
    """One kind of fault. A lane makes one fault at a time; the lanes run in parallel."""

    make: Callable[[Scene], None]
    what: str
    lane: int
    needs: str = ""


FAULTS: Final = {
    "kill": Fault(_kill, "SIGKILL of a client process", 0),
    "term": Fault(_terminate, "SIGTERM of a client process", 0),
    "hang": Fault(_hang, "SIGSTOP of a consumer or ticker for 3 to 5 s", 0),
    "zombie": Fault(_zombie, "SIGSTOP of a group's member, beyond its dead interval", 0),
    "late": Fault(_late_commit, "a producer's transaction left open for 4 to 15 s", 2),
    "idle": Fault(_idle_transaction, "an idle transaction that pins the xmin horizon", 2),
    "poison": Fault(_poison, "five messages that every handler refuses", 0),
    "sessions": Fault(_end_sessions, "pg_terminate_backend in a stream", 1),
    "backend": Fault(_kill_backend, "SIGKILL of a backend: the server recovers", 1, "server"),
    "fast": Fault(_restart_fast, "fast restart of the server", 1, "server"),
    "immediate": Fault(_restart_immediate, "immediate restart of the server", 1, "server"),
    "drop": Fault(_drop, "connections reset, by a proxy", 1),
    "delay": Fault(_delay, "everything delayed by 10 to 300 ms each way, by a proxy", 1),
    "hole": Fault(_black_hole, "no traffic, then connections are reset, by a proxy", 1),
    "loss": Fault(_lose_packets, "every packet lost for 2 to 12 s, by the kernel", 1, "network"),
    "full": Fault(_no_connections_left, "no free connection slot", 1, "server"),
    "statement": Fault(
        _setting("statement_timeout", "1ms", "5ms", "20ms"), "statement_timeout", 1, "server"
    ),
    "lock": Fault(_setting("lock_timeout", "1ms", "5ms"), "lock_timeout", 1, "server"),
    "idle-timeout": Fault(
        _setting("idle_in_transaction_session_timeout", "1ms", "5ms"),
        "idle_in_transaction_session_timeout",
        1,
        "server",
    ),
    "disk": Fault(_full_disk, "a full disk", 1, "disk"),
    "read-only": Fault(
        _setting("default_transaction_read_only", "on"), "a read-only server", 1, "server"
    ),
    "clock": Fault(set_clock, "the server's clock set back or ahead by 5 s to 1 h", 2, "clock"),
    "deeds": Fault(misbehave, "messages whose handlers break the rules", 0),
    "rows": Fault(switch_row_security, "row security on the log for a few seconds", 1),
    "dump": Fault(restore_dump, "a dump held before its locks, restored and checked", 1, "server"),
}
"""All faults by name. Lane 0 has process faults, 1 server and network faults, 2 lasting ones."""


def possible(scene: Scene, names: list[str]) -> list[str]:
    """Return the faults that are possible in this environment."""
    has = {
        "": True,
        "server": scene.server.own,
        "disk": scene.server.has_disk,
        "network": scene.own_network,
        "clock": scene.server.clock is not None,
    }
    return [name for name in names if has[FAULTS[name].needs]]
