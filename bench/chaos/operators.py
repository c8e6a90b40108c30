"""Faults caused by operators and applications: clocks, handlers, row security, dumps."""

from __future__ import annotations

import contextlib
import time
from typing import Final

import psycopg

from bench.chaos.clock import SEEN_AFTER
from bench.chaos.copies import PHASES, check_dump, log_tables
from bench.chaos.deeds import DEEDS
from bench.chaos.journal import read_transactions
from bench.chaos.producers import payload, send_deeds
from bench.chaos.scene import Scene
from bench.chaos.tables import QUEUE

STEPS: Final = (-3600, -300, -60, -5, 5, 60, 3600)
"""Offsets of the server's clock from the machine's, in seconds."""
TICKS_WITHIN: Final = 30.0
"""Seconds after a step within which a tick must happen, whatever other faults are made."""
AT_ONCE: Final = 4
"""Deeds in one transaction, mixed with normal messages."""


def set_clock(scene: Scene) -> None:
    """Set the server's clock and leave it: nothing corrects a wrong clock."""
    clock = scene.server.clock
    assert clock is not None
    before = clock.offset
    clock.set(scene.chance.choice([step for step in STEPS if step != before]))
    scene.wait(SEEN_AFTER)
    began = time.monotonic()
    newest = _newest_tick(scene)
    while _newest_tick(scene) == newest:
        if time.monotonic() - began > TICKS_WITHIN:
            scene.noted.append(
                ("stalled", f"no tick for {TICKS_WITHIN:g} s, clock {before:+} to {clock.offset:+}")
            )
            return
        if scene.ending.is_set():
            return
        scene.wait(0.1)
    scene.wait(scene.duration())


def _newest_tick(scene: Scene) -> int | None:
    with contextlib.suppress(psycopg.Error), scene.server.control() as conn:
        query = "select last_tick_id from pgque.get_queue_info(%s)"
        row = conn.execute(query, (QUEUE,)).fetchone()
        return row[0] if row else None
    return None


def misbehave(scene: Scene) -> None:
    """Send messages whose handlers break the rules, mixed with normal ones."""
    if not scene.deeds:
        scene.deeds = scene.chance.sample(list(DEEDS), len(DEEDS))
    names = [scene.deeds.pop() for _ in range(min(AT_ONCE, len(scene.deeds)))]
    deeds: dict[str, str | None] = {}
    for name in names:
        deeds[next(scene.keys)] = None
        deeds[f"{next(scene.keys)}:{name}"] = name
    deeds[next(scene.keys)] = None
    with scene.server.control() as conn:
        conn.autocommit = False
        send_deeds(conn, scene.journal, deeds)
    scene.done.update(names)
    scene.wait(scene.duration(0.5, 2.0))


def switch_row_security(scene: Scene) -> None:
    """Enable row security on the log, and disable it again. A read in between may only fail."""
    try:
        _set_row_security(scene, "enable")
        scene.wait(scene.duration())
    finally:
        _set_row_security(scene, "disable")


def _set_row_security(scene: Scene, verb: str) -> None:
    with scene.server.control() as conn:
        for name in log_tables(conn):
            conn.execute(f"alter table {name} {verb} row level security".encode())


def restore_dump(scene: Scene) -> None:
    """Dump, sometimes held after its snapshot, restore in the same cluster, and drain the copy."""
    known = [
        key
        for transaction in read_transactions(scene.folder)
        if transaction.outcome == "sent"
        for key in transaction.keys
    ]
    turn = len(scene.copies)
    scene.copies.append(
        check_dump(
            scene.server,
            known,
            list(PHASES)[turn % len(PHASES)],
            hold=turn % 3 != 1,
            name=("pg_dump", "chaos dump")[turn // 2 % 2],
            keys=scene.keys,
            payload=payload,
        )
    )
