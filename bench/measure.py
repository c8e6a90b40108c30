"""Input and output of a workload, and readings of the machine."""

from __future__ import annotations

import operator
import random
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil
import psycopg

Connection = psycopg.Connection[Any]
T = TypeVar("T")

_ORDER = random.Random(1)


class WorkloadFailed(AssertionError):
    """A workload's check failed, so its figures mean nothing."""


@dataclass
class Row:
    """One line of the table of results: a figure, its range and its reference.

    ``value`` is the median of the rounds, or None if the subject cannot run the workload;
    ``detail["lacks"]`` then says why. ``ratio`` is value to reference_value, of the same run and in
    the same unit. ``detail`` holds JSON: samples, curves for the plots, checks.
    """

    workload: int
    name: str
    unit: str
    value: float | None
    low: float | None = None
    high: float | None = None
    reference: str = ""
    reference_value: float | None = None
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    subject: str = "pgque"
    detail: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, str, str]:
        """The key that identifies this row across runs."""
        return (self.workload, self.subject, self.name)


@dataclass
class Context:
    """The input of a workload.

    ``dsn`` is a fresh database with pgque in it. ``quick`` is for all workloads in three minutes,
    ``tiny`` (which is also quick) for a test of the workload itself, in seconds. ``brief`` (also
    quick) is for the check in CI: few events, in more rounds.
    """

    dsn: str
    quick: bool
    rounds: int
    peers: list[str]
    progress: Callable[[str], None]
    new_database: Callable[[str, bool], str]
    tiny: bool = False
    brief: bool = False
    soak_minutes: float = 30

    def database(self, name: str, *, pgque: bool = False) -> str:
        """Make another fresh database, for a peer, or with pgque in it; return its DSN."""
        return self.new_database(name, pgque)

    def pick(self, full: T, quick: T, tiny: T) -> T:
        """Choose a size."""
        if self.tiny:
            return tiny
        return quick if self.quick else full


def figure(
    workload: int,
    name: str,
    unit: str,
    samples: Sequence[float],
    *,
    goal: str = "",
    subject: str = "pgque",
    **detail: Any,
) -> Row:
    """Make a row whose goal, such as ``"<= 30 MB"``, is about the median itself."""
    median = statistics.median(samples)
    return Row(
        workload=workload,
        name=name,
        unit=unit,
        value=median,
        low=min(samples),
        high=max(samples),
        goal=goal,
        met=meets(goal, median),
        subject=subject,
        detail={"samples": list(samples), **detail},
    )


def compared(
    workload: int,
    name: str,
    unit: str,
    samples: Sequence[float],
    *,
    reference: str,
    reference_samples: Sequence[float],
    goal: str = "",
    subject: str = "pgque",
    **detail: Any,
) -> Row:
    """Make a row whose goal, such as ``"<= 1.15"``, is about the ratio to a reference."""
    row = figure(workload, name, unit, samples, subject=subject, **detail)
    assert row.value is not None
    row.reference = reference
    row.reference_value = statistics.median(reference_samples)
    row.ratio = row.value / row.reference_value if row.reference_value else None
    row.goal = goal
    row.met = None if row.ratio is None else meets(goal, row.ratio)
    row.detail["reference_samples"] = list(reference_samples)
    return row


def lacking(workload: int, name: str, subject: str, why: str) -> Row:
    """Make the row of a peer that cannot run a workload."""
    return Row(workload, name, "", None, subject=subject, detail={"lacks": why})


_GOAL = re.compile(r"(<=|>=|<|>)\s*([\d.]+)")
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def bound(goal: str) -> tuple[str, float] | None:
    """Split a goal such as ``"<= 1.15"`` or ``"<= 30 MB"``; return None for an empty goal."""
    found = _GOAL.match(goal)
    return (found[1], float(found[2])) if found else None


def meets(goal: str, value: float) -> bool | None:
    """Return whether a figure meets a goal; None if there is no goal."""
    limit = bound(goal)
    return None if limit is None else bool(_COMPARE[limit[0]](value, limit[1]))


def interleave(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Run each contestant once per round, in random order; return their figures.

    A disturbance of the machine then affects all contestants alike. If the disk decides, short
    turns and many rounds work best. Merely reversing the order each time is not enough: with a
    periodic disturbance it once made the third of three equals look twice as slow as the first.
    """
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        _ORDER.shuffle(order)
        for name in order:
            figures[name].append(contestants[name]())
    return figures


def value(conn: Connection, query: str, *parameters: object) -> Any:
    """Return the first column of the first row; None if there is no row."""
    row = conn.execute(query.encode(), parameters or None).fetchone()
    return row[0] if row else None


def wal_bytes(conn: Connection) -> int:
    """Return how much the server has written to its log since it was made."""
    return int(value(conn, "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


def dead_tuples(conn: Connection, schema: str = "pgque") -> dict[str, int]:
    """Return the dead rows of each table of a schema (``%``: of all) that has any."""
    value(conn, "select pg_stat_force_next_flush()")
    value(conn, "select pg_stat_clear_snapshot()")
    query = (
        "select schemaname || '.' || relname, n_dead_tup from pg_stat_all_tables "
        "where schemaname like %s and n_dead_tup > 0"
    )
    return dict(conn.execute(query.encode(), [schema]).fetchall())


def stop_autovacuum(conn: Connection, schema: str = "pgque") -> None:
    """Turn autovacuum off for the tables of a schema, so that it disturbs no contestant."""
    query = (
        "select format('alter table %%I.%%I set (autovacuum_enabled = off)', nspname, relname) "
        "from pg_class join pg_namespace n on n.oid = relnamespace "
        "where relkind = 'r' and nspname = %s"
    )
    for (statement,) in conn.execute(query.encode(), [schema]).fetchall():
        conn.execute(statement)


def server_pid(conn: Connection) -> int | None:
    """Return the process of the server that is the parent of all others; None on another host."""
    try:
        backend = psutil.Process(int(value(conn, "select pg_backend_pid()")))
        parent = backend.parent()
        if parent is not None and "postgres" in backend.name() + parent.name():
            return parent.pid
    except psutil.Error:
        pass
    return None


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds that these processes and their children, ended ones included, used."""
    total = 0.0
    seen: dict[int, psutil.Process] = {}
    for pid in pids:
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            seen[process.pid] = process
    for process in seen.values():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        total += getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return total


def rss(pid: int) -> int:
    """Return the memory that a process holds now, in bytes."""
    return int(psutil.Process(pid).memory_info().rss)
