"""Events sent at a steady rate, from sender processes to a contestant's worker process.

The times of sending and arrival are kept on a `Board`, memory that all processes share. A note
there costs a fraction of a microsecond, so measuring does not slow down the contestant.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bench import peers
from bench.measure import WorkloadFailed
from bench.processes import SPAWN, Crew

if TYPE_CHECKING:
    from typing_extensions import Self

    from bench.peers.ours import Ours

SENDERS = 2
LANES = 4
"""The most sender processes, and the most connections in each."""

PAYLOAD_LENGTH = 100
OVERTIME = 1.2
"""A sender that cannot hold its rate gives up after this many times the planned time."""

PATIENCE = 30.0
"""After this many seconds without an arrival, missing events count as lost."""


class Board:
    """When each event was sent and first handled, and how often it was handled, by its number.

    Times come from `time.perf_counter`, which all processes of one machine share.
    """

    def __init__(self, capacity: int) -> None:
        self.sent: Any = SPAWN.RawArray("d", capacity)
        self.arrived: Any = SPAWN.RawArray("d", capacity)
        self.times: Any = SPAWN.RawArray("B", capacity)
        self.capacity = capacity

    def payload(self, number: int) -> str:
        """Note that an event is sent now; return its payload."""
        payload = f"{number:<{PAYLOAD_LENGTH}}"
        self.sent[number] = time.perf_counter()
        return payload

    def handled(self, payload: str) -> None:
        """Note that an event's handler starts now."""
        now = time.perf_counter()
        number = int(payload)
        if not self.times[number]:
            self.arrived[number] = now
        self.times[number] += 1


@dataclass
class Load:
    """Events sent at one rate."""

    board: Board
    first: int
    count: int
    rate: float
    began: float
    ended: float

    @property
    def numbers(self) -> Iterator[int]:
        """The events that were actually sent."""
        sent = self.board.sent
        return (n for n in range(self.first, self.first + self.count) if sent[n])

    @property
    def sent_rate(self) -> float:
        """Events a second that were sent."""
        return sum(1 for _ in self.numbers) / (self.ended - self.began)

    @property
    def handled_rate(self) -> float:
        """Events a second that were handled until the last was sent."""
        arrived = self.board.arrived
        handled = sum(1 for n in self.numbers if 0 < arrived[n] <= self.ended)
        return handled / (self.ended - self.began)

    @property
    def falls_behind(self) -> bool:
        """Whether a tenth or more was not sent, or not handled, in time."""
        allowed = min(0.9 * self.rate, self.rate - 2 / (self.ended - self.began))
        return bool(self.handled_rate < allowed)

    def missing(self) -> int:
        """Return how many events have not been handled."""
        times = self.board.times
        return sum(not times[n] for n in self.numbers)

    def twice(self) -> int:
        """Return how many events were handled more than once."""
        times = self.board.times
        return sum(times[n] > 1 for n in self.numbers)

    def delays(self, since: float = 0.0, until: float | None = None) -> list[float]:
        """Return the ms from send to handler of the events sent between these two seconds."""
        sent, arrived = self.board.sent, self.board.arrived
        low = self.began + since
        high = float("inf") if until is None else self.began + until
        return [
            (arrived[n] - sent[n]) * 1e3
            for n in self.numbers
            if low <= sent[n] < high and arrived[n]
        ]

    def curve(self, step: float = 1.0) -> list[tuple[float, float]]:
        """Return the median delay by second of sending."""
        parts: dict[int, list[float]] = {}
        for n in self.numbers:
            if self.board.arrived[n]:
                part = int((self.board.sent[n] - self.began) / step)
                parts.setdefault(part, []).append(
                    (self.board.arrived[n] - self.board.sent[n]) * 1e3
                )
        return [((part + 1) * step, statistics.median(parts[part])) for part in sorted(parts)]


def percentile(samples: Sequence[float], part: float) -> float:
    """Return the quantile of the samples."""
    ordered = sorted(samples)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


class Sender:
    """A process that sends its share of the events, each at its time."""

    def __init__(self, name: str, dsn: str, board: Board) -> None:
        self._board = board
        self._peers = [peers.load(name)(dsn) for _ in range(LANES)]
        self._pool = ThreadPoolExecutor(LANES)

    def send(
        self, first: int, count: int, rate: float, start: float, share: tuple[int, int, int]
    ) -> float:
        """Send every n-th event. ``share``: first lane, lanes here, lanes in all."""
        offset, lanes, of = share
        latest = start + count / rate * OVERTIME + 0.5
        jobs = [
            self._pool.submit(
                self._lane, lane, range(offset + lane, count, of), first, rate, start, latest
            )
            for lane in range(lanes)
        ]
        return max(job.result() for job in jobs)

    def _lane(
        self, lane: int, places: range, first: int, rate: float, start: float, latest: float
    ) -> float:
        enqueue, payload = self._peers[lane].enqueue, self._board.payload
        for place in places:
            pause = start + place / rate - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            elif time.perf_counter() > latest:
                break
            enqueue(payload(first + place))
        return time.perf_counter()

    def close(self) -> None:
        """Close all connections."""
        self._pool.shutdown()
        for peer in self._peers:
            peer.tear_down()


def lanes_for(rate: float) -> tuple[int, int]:
    """Return the number of processes, and of connections in each, that a rate needs."""
    if rate <= 100:
        return 1, 1
    return (1, LANES) if rate <= 1000 else (SENDERS, LANES)


class Session:
    """A contestant's processes: its worker, a ticker if it needs one, and senders.

    Use it as a context manager. Entering it sets the contestant up in its database and warms it up:
    every connection has sent, and the worker has handled every event.

    :param name: a peer's name, or ``"ours"``.
    :param dsn: a fresh database of its own.
    :param board: has a place for every event, and a thousand more for warming up.
    :param fastest: the highest rate of the run.
    :param ticker: whether pgque has a ticker process.
    """

    def __init__(
        self, name: str, dsn: str, board: Board, *, fastest: float, ticker: bool = True
    ) -> None:
        self.name = name
        self.dsn = dsn
        self.board = board
        self.loads: list[Load] = []
        self._roles = ["tick", "work"] if ticker and name == "ours" else ["work"]
        self._next = 0
        self._fastest = fastest

    def __enter__(self) -> Self:
        peer = peers.load(self.name)(self.dsn)
        try:
            peer.set_up()
        finally:
            peer.tear_down()
        with contextlib.ExitStack() as stack:
            self._workers = [
                stack.enter_context(_process(role, self.name, self.dsn, self.board))
                for role in self._roles
            ]
            self._senders = [
                stack.enter_context(Crew(1, Sender, self.name, self.dsn, self.board))
                for _ in range(lanes_for(self._fastest)[0])
            ]
            self._warm_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _warm_up(self) -> None:
        for rate, seconds in ((10.0, 0.1), (100.0, 0.3), (self._fastest, 0.3)):
            self.send(rate, min(seconds, 500 / rate))
            self.wait()
        self.loads.clear()

    def begin(self, rate: float, seconds: float) -> Load:
        """Begin to send at a rate; `finish` waits for its end."""
        count = max(1, round(rate * seconds))
        if self._next + count > self.board.capacity:
            raise ValueError("the board is too small for that many events")
        members, lanes = lanes_for(rate)
        start = time.perf_counter() + 0.05
        load = Load(self.board, self._next, count, rate, start, start)
        self._next += count
        self._sending = self._senders[:members]
        for member, sender in enumerate(self._sending):
            share = (member * lanes, lanes, members * lanes)
            sender.begin("send", load.first, count, rate, start, share)
        return load

    def finish(self, load: Load) -> Load:
        """Wait until every event was sent."""
        load.ended = max(sender.finish()[0].result for sender in self._sending)
        self.loads.append(load)
        return load

    def send(self, rate: float, seconds: float) -> Load:
        """Send at a rate for some time."""
        return self.finish(self.begin(rate, seconds))

    def wait(self, longest: float = 600.0) -> bool:
        """Wait until every event has been handled; return False if that takes too long.

        :raises WorkloadFailed: if events are missing and none arrives any more, if an event was
            handled twice, or if the worker has ended.
        """
        deadline = time.monotonic() + longest
        waiting = [load for load in self.loads if load.missing()]
        before, progress = -1, time.monotonic()
        while waiting and time.monotonic() < deadline:
            self._check_workers()
            missing = sum(load.missing() for load in waiting)
            if missing == 0:
                break
            if missing != before:
                before, progress = missing, time.monotonic()
            elif time.monotonic() - progress > PATIENCE:
                raise WorkloadFailed(f"{self.name}: {missing} events were lost")
            time.sleep(0.02 if missing < 1000 else 0.2)
        twice = sum(load.twice() for load in self.loads)
        if twice:
            raise WorkloadFailed(f"{self.name}: {twice} events were handled twice")
        return not any(load.missing() for load in waiting)

    def _check_workers(self) -> None:
        for role, process in zip(self._roles, self._workers, strict=True):
            if not process.is_alive():
                raise WorkloadFailed(f"{self.name}: its {role} process ended: {process.exitcode}")


@contextlib.contextmanager
def _process(role: str, name: str, dsn: str, board: Board) -> Iterator[Any]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_run, args=(role, name, dsn, board, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process
    finally:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.terminate()
            process.join()


def _run(role: str, name: str, dsn: str, board: Board, pipe: Pipe) -> None:
    peer = peers.load(name)(dsn)
    stop = _closed(pipe)
    if role == "tick":
        ours: Ours = peer  # type: ignore[assignment]
        ours.tick(stop)
    else:
        peer.work(board.handled, stop)
    peer.tear_down()


def _closed(pipe: Pipe) -> threading.Event:
    """Return an event that is set when the other end of a pipe is closed, or its process ends."""
    stop = threading.Event()

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            pipe.recv()
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    return stop
