"""Runs the demo from start to finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pgque.client import PgqueClient, connect
from pgque.demo.check import Verdict, compare, sum_up
from pgque.demo.crew import Crew
from pgque.demo.report import report
from pgque.demo.scene import Scene
from pgque.demo.signals import Signals
from pgque.demo.tables import MAX_RETRIES, MEMBERS, set_up, take_lock, tear_down
from pgque.demo.takeover import Takeover
from pgque.demo.view import View
from pgque.demo.watch import Note, Reading, Watch
from pgque.errors import PgqueConnectionError, PgqueError, PgqueSchemaMissing
from pgque.install import check_schema, install

LOOK_EVERY = 0.25
LOOKING = 0.2
"""The largest share of time spent on reading figures. A slow machine reads them less often."""
GIVE_UP_AFTER = 20.0
"""Seconds without progress, after all flights are sent, until the rest counts as lost."""
SETTLE = 1.0
"""Seconds to wait at the end for duplicate deliveries."""


@contextmanager
def database(dsn: str | None, signals: Signals, say: Callable[[str], None]) -> Iterator[str]:
    """Yield the DSN of a database with the schema: the given one or an embedded server's."""
    if dsn is None:
        from pgque.embedded import Server  # needs an extra, but only without a given database

        say("starting an embedded PostgreSQL with a temporary data folder ...")
        with Server() as server:
            signals.check()
            install(server.dsn)
            yield server.dsn
        return
    with signals.breaking_in():
        try:
            check_schema(dsn)
        except PgqueSchemaMissing:
            say("this database has no schema pgque: installing it")
            install(dsn)
            say("it stays after the demo; `pgque uninstall` removes it")
    yield dsn


@contextmanager
def tables(dsn: str, signals: Signals, say: Callable[[str], None]) -> Iterator[PgqueClient]:
    """Create the demo's queue and tables, yield a connection, and remove them afterwards."""
    with signals.breaking_in():
        client = connect(dsn, autocommit=True)
    with client:
        take_lock(client)
        with signals.breaking_in():
            if set_up(client):
                say("removed the leftovers of an earlier demo")
        try:
            yield client
        finally:
            _clean_up(client, dsn, say)


def _clean_up(client: PgqueClient, dsn: str, say: Callable[[str], None]) -> None:
    try:
        if client.conn.broken:
            client = connect(dsn, autocommit=True)
        tear_down(client)
    except PgqueError as error:
        say(f"could not remove the demo's tables; the next demo will remove them: {error}")


class Run:
    """One run of the demo in a prepared database."""

    def __init__(
        self, dsn: str, client: PgqueClient, rate: float, signals: Signals, view: View
    ) -> None:
        self._watch = Watch(client)
        self._signals = signals
        self._view = view
        self._truth = sum_up()
        self._crew = Crew(dsn, rate)
        self._began = self._looked = time.monotonic()
        self._told_of_dead_letter = False
        self._takeover = Takeover(self._crew, self._watch, self._tell)
        self._scene = Scene(total=len(self._truth.flights))

    def run(self) -> bool:
        """Send all flights, wait until all are handled and print the report. Return its verdict."""
        with self._view, self._crew:
            for role in ("ticker", "delays", *MEMBERS, "audit"):
                self._start(role)
            self._start("producer")
            reading = self._watch_until_done()
            self._watch_for(SETTLE)
        verdict = self._reckon()
        for line in report(verdict, self._watch.calls(), reading.retries):
            self._view.say(line)
        return verdict.right

    def _start(self, role: str) -> None:
        self._signals.check()
        self._crew.start(role)
        self._scene.processes[role] = self._crew[role].pid

    def _watch_until_done(self) -> Reading:
        progress: tuple[int, ...] = ()
        progressed = time.monotonic()
        while True:
            reading = self._look()
            if self._is_done(reading):
                return reading
            if reading.progress != progress or self._crew["producer"].running:
                progress, progressed = reading.progress, time.monotonic()
            if time.monotonic() - progressed > GIVE_UP_AFTER:
                self._tell(f"no progress for {GIVE_UP_AFTER:.0f} s: giving up")
                self._scene.happenings += self._crew.last_words()
                self._view.show(self._scene)
                return reading
            self._pause()

    def _watch_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._look()
            self._pause()

    def _pause(self) -> None:
        spent = time.monotonic() - self._looked
        time.sleep(max(LOOK_EVERY, spent / LOOKING - spent))

    def _look(self) -> Reading:
        self._signals.check()
        self._looked = time.monotonic()
        try:
            reading = self._watch.read()
            notes = self._watch.new_notes()
        except PgqueConnectionError:
            self._crew.check()
            raise
        self._takeover.advance(notes)
        self._tell_of_dead_letter(notes)
        self._crew.check()
        self._scene.elapsed = time.monotonic() - self._began
        self._scene.reading = reading
        self._scene.killed = self._crew.killed
        self._view.show(self._scene)
        return reading

    def _is_done(self, reading: Reading) -> bool:
        flights, cancelled = len(self._truth.flights), len(self._truth.cancelled)
        consumers = reading.consumers
        return (
            reading.sent >= flights
            and consumers["delays"].delivered >= flights
            and consumers["gates"].delivered >= flights
            and consumers["audit"].delivered >= flights - cancelled
            and reading.dead >= cancelled
        )

    def _reckon(self) -> Verdict:
        verdict = compare(self._truth, self._watch.outcome())
        if not self._takeover.done:
            verdict.differences.append("no batch of a killed member was taken over")
        return verdict

    def _tell_of_dead_letter(self, notes: list[Note]) -> None:
        for note in notes:
            final = note.kind == "refused" and note.detail["retry"] == MAX_RETRIES
            if final and not self._told_of_dead_letter:
                self._told_of_dead_letter = True
                flight = note.detail["flight"]
                self._tell(f"first dead letter: audit failed on {flight} {MAX_RETRIES + 1} times")

    def _tell(self, text: str) -> None:
        elapsed = time.monotonic() - self._began
        self._scene.happenings.append(f"{elapsed:5.1f} s  {text}")
