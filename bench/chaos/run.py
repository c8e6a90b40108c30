"""The phases of a run: a calm, rounds of faults with a calm after each, draining, checking.

A calm is a time without faults in which the rate of delivery is measured.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from bench.chaos import rates
from bench.chaos.copies import PHASES, Copy
from bench.chaos.crew import Crew
from bench.chaos.deeds import DEEDS
from bench.chaos.faults import FAULTS, possible
from bench.chaos.history import Findings, History, check
from bench.chaos.journal import TRANSACTIONS, Journal, read_attempts, read_transactions
from bench.chaos.proxy import Proxy
from bench.chaos.scene import LONGEST, Scene
from bench.chaos.server import ChaosServer
from bench.chaos.tables import (
    CONSUMERS,
    GROUP,
    HANDLERS,
    MAX_RETRIES,
    PRODUCERS,
    QUEUE,
    ROLE,
    TICKERS,
    left_to_do,
    read_dead,
    read_effects,
    set_up,
)
from pgque.client import PgqueClient
from pgque.errors import PgqueError

DRAIN = 60.0
"""Seconds without progress after which draining gives up."""
PAUSE = (0.3, 2.0)


@dataclass
class Happening:
    """A fault that was made, with its start and end times."""

    name: str
    began: float
    ended: float


@dataclass
class Result:
    """The results of a run."""

    history: History
    findings: Findings
    happenings: list[Happening]
    calms: list[tuple[float, float]]
    """The calm before the first fault, then the one after each round."""
    recoveries: list[rates.Recovery]
    crashed: list[str]
    refused: int
    said: Counter[str]
    left: int
    seconds: float
    server: str
    kinds: list[str] = field(default_factory=list)
    deeds: Counter[str] = field(default_factory=Counter)
    """How often each deed was sent."""
    killed: int = 0
    """How often a handler killed its own process."""
    clock_steps: int = 0
    copies: list[Copy] = field(default_factory=list)


class Run:
    """One run. `make` performs all of it."""

    def __init__(
        self,
        server: ChaosServer,
        *,
        names: list[str],
        seconds: float,
        seed: int,
        rate: float,
        round_seconds: float,
        calm_seconds: float,
        own_network: bool,
        say: Callable[[str], None],
    ) -> None:
        self._server = server
        self._names = names
        self._seconds = seconds
        self._seed = seed
        self._rate = rate
        self._round = round_seconds
        self._calm_seconds = calm_seconds
        self._own_network = own_network
        self._say = say
        self._happenings: list[Happening] = []
        self._calms: list[tuple[float, float]] = []
        self._last: list[str] = []
        """The last fault of each round, made alone."""
        self._guard = threading.Lock()

    def make(self) -> Result:
        """Run it and check the history."""
        set_up(self._server.dsn, self._server.password)
        roles = (*TICKERS, *HANDLERS, *PRODUCERS)
        began = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="pgque-chaos-") as name,
            Proxy(self._server.upstream()) as proxy,
        ):
            folder = Path(name)
            dsn = self._server.dsn_through(proxy.port, ROLE)
            crew = Crew(dsn, roles, self._rate / len(PRODUCERS), folder)
            with crew:
                journal = Journal(folder, "injector", TRANSACTIONS)
                scene = Scene(
                    self._server,
                    proxy,
                    crew,
                    journal,
                    folder,
                    random.Random(self._seed),
                    threading.Event(),
                    (f"injector:{number}" for number in range(1, 1 << 30)),
                    self._own_network,
                )
                kinds = possible(scene, self._names)
                self._course(scene, kinds)
                crew.stop(*PRODUCERS)
                if self._server.clock is not None:
                    self._server.clock.catch_up()  # make pending retries due
                left = self._drain(folder)
            return self._reckon(scene, left, time.monotonic() - began, kinds)

    def _course(self, scene: Scene, kinds: list[str]) -> None:
        self._await_flow()
        self._calm()
        self._refuse_backlog()
        end = time.monotonic() + self._seconds
        bags = {lane: _bag(kinds, scene.chance, lane) for lane in (0, 1, 2)}
        last_ones = _bag(kinds, scene.chance, 0, 1)
        number = 0
        while (rest := end - time.monotonic() - self._calm_seconds) > LONGEST:
            number += 1
            faults = min(self._round, rest)
            self._say(f"round {number}: {faults:.0f} s of faults")
            self._faults(scene, bags, faults)
            self._end_round(scene, next(last_ones, kinds[0]))
        for name in kinds:
            if not self._counts()[name]:  # not drawn at random so far
                self._end_round(scene, name)
        self._complete(scene, kinds)
        self._say(", ".join(f"{n} {name}" for name, n in self._counts().most_common()))

    def _complete(self, scene: Scene, kinds: list[str]) -> None:
        """Make every deed and every kind of dump at least once."""
        for _ in range(2 * len(DEEDS)):
            if "deeds" not in kinds or not DEEDS.keys() - scene.done.keys():
                break
            self._one(scene, "deeds")
        for _ in range(2 * len(PHASES)):
            if "dump" not in kinds or len(scene.copies) >= len(PHASES):
                break
            self._one(scene, "dump")

    def _counts(self) -> Counter[str]:
        return Counter(happening.name for happening in self._happenings)

    def _await_flow(self) -> None:
        deadline = time.monotonic() + 60
        with self._server.control() as conn:
            query = "select count(distinct consumer) from chaos_effect"
            while (row := conn.execute(query).fetchone()) and row[0] < len(CONSUMERS):
                if time.monotonic() > deadline:
                    raise RuntimeError("nothing is delivered, even before the first fault")
                time.sleep(0.1)

    def _refuse_backlog(self) -> None:
        """Refuse to run if there is a backlog before the first fault: rates would mean nothing."""
        if self._waiting() > self._rate * 2:
            raise RuntimeError(
                f"this machine is too slow or too busy for {self._rate:g} events a second: "
                f"the backlog is {self._waiting()} before the first fault; try a lower --rate"
            )

    def _waiting(self) -> int:
        """Return the backlog of the slowest consumer."""
        with self._server.control() as conn:
            known = PgqueClient(conn).consumer_info(QUEUE)
        return max(info.pending_events or 0 for info in known)

    def _end_round(self, scene: Scene, fault: str) -> None:
        """Make one fault alone, then measure how the rate recovers."""
        self._one(scene, fault)
        self._last.append(fault)
        waiting = self._waiting()
        self._calm()
        self._say(f"calm: backlog {waiting} at its start, {self._waiting()} at its end")

    def _calm(self) -> None:
        began = time.time()
        time.sleep(self._calm_seconds)
        self._calms.append((began, time.time()))

    def _faults(self, scene: Scene, bags: dict[int, Iterator[str]], seconds: float) -> None:
        """Let all lanes make faults in parallel for a while. Return when all faults are over."""
        deadline = time.monotonic() + seconds
        errors: list[BaseException] = []

        def lane(bag: Iterator[str]) -> None:
            try:
                while time.monotonic() + LONGEST / 2 < deadline and not scene.ending.is_set():
                    self._one(scene, next(bag))
                    scene.wait(scene.chance.uniform(*PAUSE))
            except StopIteration:  # no fault of this lane was requested
                pass
            except BaseException as error:
                errors.append(error)
                scene.ending.set()

        threads = [threading.Thread(target=lane, args=(bag,)) for bag in bags.values()]
        try:
            for thread in threads:
                thread.start()
        finally:
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        self._server_is_up()

    def _one(self, scene: Scene, name: str) -> None:
        began = time.time()
        # A fault of another lane may end this session.
        with contextlib.suppress(psycopg.OperationalError, PgqueError):
            FAULTS[name].make(scene)
        if self._server.own:
            self._server_is_up()
        with self._guard:
            self._happenings.append(Happening(name, began, time.time()))
        self._say(f"{name}, {time.time() - began:.1f} s")

    def _server_is_up(self) -> None:
        while True:
            # Another lane may restart it at this moment.
            with contextlib.suppress(psycopg.OperationalError), self._server.control() as conn:
                conn.execute("select 1")
                return

    def _drain(self, folder: Path) -> int:
        """Wait until every sent event is handled or dead. Return how many are not."""
        sent = [
            key
            for transaction in read_transactions(folder)
            if transaction.outcome == "sent"
            for key in transaction.keys
        ]
        self._say(f"draining; {len(sent):,} events were sent")
        left, progressed = -1, time.monotonic()
        while left != 0 and time.monotonic() - progressed < DRAIN:
            before = left
            with self._server.control() as conn:
                left = left_to_do(conn, sent)
            if left != before:
                progressed = time.monotonic()
            time.sleep(1.0)
        time.sleep(2.0)  # late duplicates could still arrive
        return left

    def _reckon(self, scene: Scene, left: int, seconds: float, kinds: list[str]) -> Result:
        with self._server.control() as conn:
            effects, dead = read_effects(conn), read_dead(conn)
            version = (conn.info.parameter_status("server_version") or "").split()[0]
        crew = scene.crew
        history = History(
            CONSUMERS,
            read_transactions(scene.folder),
            effects,
            read_attempts(scene.folder),
            dead,
            groups=(GROUP,),
            max_retries=MAX_RETRIES,
        )
        findings = check(history)
        for kind, text in scene.noted:
            findings.add(kind, text)
        for copy in scene.copies:
            for text in copy.violations():
                findings.add("copy", text)
        return Result(
            history,
            findings,
            self._happenings,
            self._calms,
            rates.recoveries(history, self._calms, self._last),
            crew.crashed,
            crew.refused,
            crew.said(),
            left,
            seconds,
            version,
            kinds,
            scene.done,
            crew.killed,
            0 if self._server.clock is None else self._server.clock.steps,
            scene.copies,
        )


def _bag(kinds: list[str], chance: random.Random, *lanes: int) -> Iterator[str]:
    """Draw faults of these lanes at random, each equally often."""
    mine = [name for name in kinds if FAULTS[name].lane in lanes]
    while mine:
        yield from chance.sample(mine, len(mine))
