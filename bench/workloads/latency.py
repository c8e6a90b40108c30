"""Latency from send to handler (6), without a ticker process (7), beside an old transaction (11).

The clock runs from just before the call that sends to the handler's first line, in other processes
on the same machine. Only one contestant runs at a time, each in its own database.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from bench import peers
from bench.measure import Context, Row, WorkloadFailed, compared, figure, interleave, lacking
from bench.old import old_transaction
from bench.paced import Board, Load, Session, percentile
from bench.peers.ours import Ours

OURS = "ours"
FLOOR = "notify"
PLACES_FOR_WARMING_UP = 2000


@dataclass
class Results:
    """Results of the rounds for one contestant at one rate, in ms and events a second."""

    medians: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    handled: list[float] = field(default_factory=list)
    rounds_behind: int = 0
    events: int = 0
    waiting: int = 0

    def add(self, load: Load, *, drained: bool) -> None:
        """Add a round; ``drained`` tells whether every event was handled in the end."""
        self.events += sum(1 for _ in load.numbers)
        self.sent.append(load.sent_rate)
        self.handled.append(load.handled_rate)
        self.rounds_behind += load.falls_behind
        self.waiting += 0 if drained else load.missing()
        delays = load.delays()
        self.medians.append(statistics.median(delays))
        self.p99s.append(percentile(delays, 0.99))

    @property
    def behind(self) -> bool:
        """Whether most rounds missed the rate. The delays then only measure the backlog."""
        return 2 * self.rounds_behind > len(self.medians)

    @property
    def p99(self) -> float:
        """Median of the rounds' 99th percentiles."""
        return statistics.median(self.p99s)

    @property
    def detail(self) -> dict[str, Any]:
        """The detail of a row."""
        return {
            "p99": self.p99,
            "p99 of rounds": self.p99s,
            "sent a second": statistics.median(self.sent),
            "handled a second": statistics.median(self.handled),
            "rounds behind": self.rounds_behind,
            "every event arrived": self.events,
        }


Table = dict[str, dict[int, Results]]
Broken = dict[str, str]
"""Peers that failed, and how. They do not end the workload."""


def _rates(context: Context, name: str) -> tuple[int, ...]:
    if name not in (OURS, FLOOR):
        return context.pick((1, 100, 1000, 5000), (100, 1000), (100,))
    return context.pick((1, 100, 1000, 5000), (1, 100, 1000, 5000), (100, 500))


def _seconds(context: Context) -> float:
    return context.pick(10, 2, 0.5)


def _board(rates: tuple[int, ...], seconds: float) -> Board:
    return Board(round(sum(rates) * seconds) + len(rates) + PLACES_FOR_WARMING_UP)


def _turn(
    context: Context,
    table: Table,
    label: str,
    name: str,
    rates: tuple[int, ...],
    *,
    ticker: bool = True,
) -> Callable[[], float]:
    """Return one contestant's turn in a round. A peer stops at a rate that it cannot hold."""
    seconds = _seconds(context)
    table[label] = {}

    def turn() -> float:
        context.progress(f"{label}: {', '.join(f'{rate:,}' for rate in rates)} a second")
        dsn = context.database(name)
        results = table[label]
        last = 0.0
        board = _board(rates, seconds)
        with Session(name, dsn, board, fastest=max(rates), ticker=ticker) as session:
            for rate in rates:
                load = session.send(rate, seconds)
                drained = session.wait(context.pick(120, 30, 30))
                results.setdefault(rate, Results()).add(load, drained=drained)
                if not drained and name == OURS:
                    raise WorkloadFailed(f"{label}: {load.missing()} events did not arrive")
                if load.falls_behind and name != OURS:
                    break
                last = results[rate].medians[-1]
        return last

    return turn


def measure_latency(context: Context) -> list[Row]:
    """Measure pgque and every peer at each rate, round after round."""
    table: Table = {}
    broken: Broken = {}
    turns = {
        OURS: _turn(context, table, OURS, OURS, _rates(context, OURS)),
        FLOOR: _turn(context, table, FLOOR, FLOOR, _rates(context, FLOOR)),
    }
    for name in context.peers:
        turns[name] = _guarded(
            context, broken, name, _turn(context, table, name, name, _rates(context, name))
        )
    if context.quick:
        # Only one round of the others: starting a worker takes longer than a rate.
        interleave(turns, 1)
        interleave({OURS: turns[OURS]}, context.rounds - 1)
    else:
        interleave(turns, context.rounds)
    rows = []
    for rate, results in table[OURS].items():
        rows += _our_rows(rate, results, _fastest(table, context.peers, rate))
        rows += _beside_floor(rate, results, table[FLOOR].get(rate))
    for name in (FLOOR, *context.peers):
        rows += [_peer_row(name, rate, results) for rate, results in table[name].items()]
        if name in broken:
            rows.append(lacking(6, "send to handler", name, broken[name]))
    return rows


def _guarded(
    context: Context, broken: Broken, name: str, turn: Callable[[], float]
) -> Callable[[], float]:
    """Return a peer's turn. After a failure it is reported and not run again."""

    def guarded() -> float:
        if name not in broken:
            try:
                return turn()
            except Exception as error:
                broken[name] = f"failed: {error}"
                context.progress(f"{name} failed: {error}")
        return 0.0

    return guarded


def _fastest(table: Table, names: list[str], rate: int) -> tuple[str, list[float]] | None:
    """Return the peer with the lowest median among those that hold a rate, and its medians.

    The textbook queue and the bare NOTIFY are references, not peers, and have their own rows.
    """
    peers = [name for name in names if name != "textbook"]
    held = {name: table[name][rate] for name in peers if rate in table[name]}
    medians = {name: found.medians for name, found in held.items() if not found.behind}
    if not medians:
        return None
    name = min(medians, key=lambda name: statistics.median(medians[name]))
    return name, medians[name]


def _our_rows(rate: int, results: Results, fastest: tuple[str, list[float]] | None) -> list[Row]:
    title = f"send to handler, {rate:,} a second"
    if results.behind:
        return [_behind_row(title, rate, results, "pgque")]
    detail = results.detail
    rows = [
        figure(6, title, "ms", results.medians, goal="<= 2.5 ms", rate=rate, **detail),
        figure(6, f"{title}, 99th percentile", "ms", results.p99s, goal="<= 10 ms"),
    ]
    if fastest:
        name, medians = fastest
        rows.append(
            compared(
                6,
                f"{title}, beside the fastest peer",
                "ms",
                results.medians,
                reference=name,
                reference_samples=medians,
                goal="<= 1",
            )
        )
    return rows


def _beside_floor(rate: int, results: Results, floor: Results | None) -> list[Row]:
    if results.behind or floor is None or floor.behind:
        return []
    return [
        compared(
            6,
            f"send to handler, {rate:,} a second, beside a bare NOTIFY",
            "ms",
            results.medians,
            reference="INSERT, NOTIFY and COMMIT, heard by another process",
            reference_samples=floor.medians,
        )
    ]


def _peer_row(name: str, rate: int, results: Results) -> Row:
    title = f"send to handler, {rate:,} a second"
    if results.behind:
        return _behind_row(title, rate, results, name)
    detail = results.detail
    return figure(6, title, "ms", results.medians, subject=name, rate=rate, **detail)


def _behind_row(title: str, rate: int, results: Results, subject: str) -> Row:
    return figure(
        6,
        f"{title}: falls behind",
        "handled a second",
        results.handled,
        subject=subject,
        goal=f">= {rate}" if subject == "pgque" else "",
        offered=rate,
        sent=results.sent,
        medians=results.medians,
        events=results.events,
        waiting_at_the_end=results.waiting,
    )


def measure_alone(context: Context) -> list[Row]:
    """Compare a lone consumer with one beside a ticker process."""
    table: Table = {}
    rates = context.pick((1, 100, 1000, 5000), (1, 100, 1000), (100, 500))
    interleave(
        {
            "ticker": _turn(context, table, "with a ticker process", OURS, rates),
            "alone": _turn(context, table, "a consumer alone", OURS, rates, ticker=False),
        },
        context.pick(context.rounds, 1, 1),
    )
    beside, alone = table["with a ticker process"], table["a consumer alone"]
    rows = []
    for rate, results in alone.items():
        title = f"send to handler, nothing configured, {rate:,} a second"
        if results.behind:
            rows.append(_behind_row(title, rate, results, "pgque"))
            continue
        rows.append(
            compared(
                7,
                title,
                "ms",
                results.medians,
                reference="with a ticker process",
                reference_samples=beside[rate].medians,
                goal="<= 1.5",
                **results.detail,
            )
        )
    for row in rows:
        row.workload = 7
    return rows


def measure_beside_old(context: Context) -> list[Row]:
    """Measure latency, and cycles of receive and ack, with and without an old transaction."""
    rates = context.pick((100, 1000), (100, 1000), (100,))
    xids = context.pick(1_000_000, 100_000, 2_000)
    seconds = _seconds(context)
    without = {rate: Results() for rate in rates}
    beside = {rate: Results() for rate in rates}
    turns = 2 * context.rounds
    cycles: dict[str, list[float]] = {}
    ours = Ours(context.dsn)
    ours.set_up()
    with (
        Session(
            OURS, context.database(OURS), _board(rates * turns, seconds), fastest=max(rates)
        ) as session,
        _closing(ours),
    ):

        def turn(results: dict[int, Results], label: str) -> None:
            for rate in rates:
                load = session.send(rate, seconds)
                if not session.wait(60):
                    raise WorkloadFailed(f"{load.missing()} events did not arrive")
                results[rate].add(load, drained=True)
            cycles.setdefault(label, []).append(_cycle(ours, context.pick(2000, 300, 20)))

        def turn_beside() -> float:
            context.progress(f"beside a transaction {xids:,} xids old")
            with old_transaction(context.dsn, 0), old_transaction(session.dsn, xids):
                turn(beside, "beside")
            return 0.0

        def turn_without() -> float:
            turn(without, "without")
            return 0.0

        interleave({"without": turn_without, "beside": turn_beside}, context.rounds)
    rows = []
    for rate in rates:
        rows.append(
            compared(
                11,
                f"send to handler beside a transaction {xids:,} xids old, {rate:,} a second",
                "ms",
                beside[rate].medians,
                reference="without it",
                reference_samples=without[rate].medians,
                goal="<= 1.1",
                **beside[rate].detail,
            )
        )
    rows.append(
        compared(
            11,
            f"send, tick, receive and ack beside a transaction {xids:,} xids old",
            "ms",
            cycles["beside"],
            reference="without it",
            reference_samples=cycles["without"],
            goal="<= 1.1",
        )
    )
    return rows


@contextmanager
def _closing(peer: peers.Peer) -> Iterator[None]:
    try:
        yield
    finally:
        peer.tear_down()


def _cycle(ours: Ours, count: int) -> float:
    """Return the median ms of a cycle."""
    times = []
    for number in range(count):
        began = perf_counter()
        ours.cycle(f"{number:0100d}")
        times.append((perf_counter() - began) * 1e3)
    return statistics.median(times)


WORKLOADS = {6: measure_latency, 7: measure_alone, 11: measure_beside_old}
