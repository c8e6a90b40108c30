"""Kills a member of the group in the middle of a batch; its sibling takes the batch over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from pgque.demo.crew import Crew
from pgque.demo.tables import GROUP, MEMBERS
from pgque.demo.watch import Note, Watch

VICTIM, HEIR = MEMBERS


class Takeover:
    """Kills the halted member, and finds which member handled its flights, and when."""

    def __init__(self, crew: Crew, watch: Watch, tell: Callable[[str], None]) -> None:
        self._crew = crew
        self._watch = watch
        self._tell = tell
        self._flights: list[str] = []
        self._killed_at: datetime | None = None
        self.done = False

    def advance(self, notes: Iterable[Note]) -> None:
        """Kill the member once it has halted, then look for the takeover."""
        for note in notes:
            if note.kind == "halted" and note.member == VICTIM:
                self._kill(note)
        if self._killed_at is not None and not self.done:
            self._look(self._killed_at)

    def _kill(self, note: Note) -> None:
        victim = self._crew[VICTIM]
        victim.kill()
        self._killed_at = self._watch.now()
        self._flights = note.detail["flights"]
        self._tell(
            f"{VICTIM} ({victim.pid}) killed with SIGKILL after {len(self._flights)} flights "
            "of its batch"
        )

    def _look(self, killed_at: datetime) -> None:
        found = self._watch.find_deliveries(GROUP, self._flights)
        if len(found) < len(self._flights):
            return
        self.done = all(member == HEIR for member, _ in found.values())
        seconds = (max(at for _, at in found.values()) - killed_at).total_seconds()
        if self.done:
            self._tell(f"{HEIR} took over the batch and finished it {seconds:.1f} s after the kill")
