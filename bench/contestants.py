"""Peers in the workloads that they do not define themselves: bulk enqueue and draining."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from bench import peers
from bench.measure import Context, Row, WorkloadFailed, figure, lacking
from bench.processes import Crew

PATIENCE = 120


class PeerWorker:
    """A peer's worker in its own process, which drains the enqueued jobs."""

    def __init__(self, name: str, dsn: str) -> None:
        self._peer = peers.load(name)(dsn)

    def drain(self, count: int) -> tuple[float, list[str]]:
        """Work until this many jobs were handled; return the seconds and the handled payloads.

        The clock runs from the first job to the last, so that starting the worker does not count.
        """
        stop = threading.Event()
        times: list[float] = []
        handled: list[str] = []

        def handle(payload: str) -> None:
            handled.append(payload)
            times.append(time.perf_counter())
            if len(handled) == count:
                stop.set()

        timer = threading.Timer(PATIENCE, stop.set)
        timer.daemon = True
        timer.start()
        self._peer.work(handle, stop)
        timer.cancel()
        return times[-1] - times[0] if times else 0.0, handled


class PeerClient:
    """A peer's producer, with a database of its own."""

    def __init__(self, context: Context, name: str) -> None:
        self.name = name
        self.dsn = context.database(name)
        self.peer = peers.load(name)(self.dsn)
        self.peer.set_up()
        self._sent = 0

    def enqueue_many(self, batches: int, size: int) -> float:
        """Enqueue batches of distinct payloads; return the rate in jobs per second."""
        parts = [[f"{self._next():0100d}" for _ in range(size)] for _ in range(batches)]
        began = time.perf_counter()
        for part in parts:
            self.peer.enqueue_many(part)
        return batches * size / (time.perf_counter() - began)

    def enqueue(self, count: int) -> None:
        """Enqueue one by one."""
        for _ in range(count):
            self.peer.enqueue(f"{self._next():0100d}")

    def drain(self) -> float:
        """Let a worker handle every enqueued job; check the result; return jobs per second."""
        count, self._sent = self._sent, 0
        with Crew(1, PeerWorker, self.name, self.dsn) as crew:
            [turn] = crew.call("drain", count)
        seconds: float = turn.result[0]
        handled: list[str] = turn.result[1]
        if set(handled) != {f"{number:0100d}" for number in range(1, count + 1)}:
            raise WorkloadFailed(
                f"{self.name}: {count} jobs were enqueued, {len(set(handled))} of them handled"
            )
        twice = sum(times - 1 for times in Counter(handled).values())
        if twice:
            raise WorkloadFailed(f"{self.name}: {twice} jobs were handled twice")
        return (count - 1) / seconds

    def _next(self) -> int:
        self._sent += 1
        return self._sent

    def close(self) -> None:
        """Close the peer's connections."""
        self.peer.tear_down()


class Entrants:
    """The peers of one workload. A peer that fails is reported with its error; the others go on."""

    def __init__(self, context: Context, stack: ExitStack, workload: int, name: str) -> None:
        self._context = context
        self._workload = workload
        self._name = name
        self._rows: list[Row] = []
        self._clients: dict[str, PeerClient] = {}
        for peer in context.peers:
            context.progress(f"setting up {peer}")
            try:
                self._clients[peer] = client = PeerClient(context, peer)
                stack.callback(client.close)
            except Exception as error:
                self._fail(peer, error)

    def without(self, ability: str) -> None:
        """Leave out the peers that lack an ability, each with a row that says so."""
        for peer, client in list(self._clients.items()):
            if ability in client.peer.lacks:
                why = client.peer.lacks[ability]
                self._rows.append(lacking(self._workload, self._name, peer, why))
                del self._clients[peer]

    def turns(self, work: Callable[[PeerClient], float]) -> dict[str, Callable[[], float]]:
        """Return each peer's turn, for `interleave`."""

        def turn(peer: str) -> float:
            if peer in self._clients:
                try:
                    return work(self._clients[peer])
                except Exception as error:
                    self._fail(peer, error)
            return 0.0

        return {peer: partial(turn, peer) for peer in self._clients}

    def rows(self, figures: dict[str, list[float]]) -> list[Row]:
        """Return a row for each peer, in events a second."""
        return self._rows + [
            figure(self._workload, self._name, "events/s", figures[peer], subject=peer)
            for peer in self._clients
        ]

    def _fail(self, peer: str, error: Exception) -> None:
        why = f"failed: {type(error).__name__}: {error}".splitlines()[0]
        self._context.progress(f"{peer} {why}")
        self._rows.append(lacking(self._workload, self._name, peer, why))
        self._clients.pop(peer, None)
