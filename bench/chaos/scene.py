"""The targets of faults, and the records that faults keep."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.chaos.copies import Copy
from bench.chaos.crew import Crew
from bench.chaos.journal import Journal
from bench.chaos.proxy import Proxy
from bench.chaos.server import ChaosServer

LONGEST: Final = 5.0
"""Longest fault in seconds. Open transactions and copies may last longer."""


@dataclass
class Scene:
    """Everything that a fault can act on."""

    server: ChaosServer
    proxy: Proxy
    crew: Crew
    journal: Journal
    folder: Path
    chance: random.Random
    ending: threading.Event
    keys: Iterator[str]
    own_network: bool
    noted: list[tuple[str, str]] = field(default_factory=list)
    """Violations found by a fault itself: the kind and a text."""
    deeds: list[str] = field(default_factory=list)
    """Deeds still to be sent in this pass through all deeds."""
    done: Counter[str] = field(default_factory=Counter)
    """How often each deed was sent."""
    copies: list[Copy] = field(default_factory=list)
    """The restored dumps that were checked."""

    def wait(self, seconds: float) -> None:
        """Wait this many seconds, or less if the run is interrupted."""
        self.ending.wait(seconds)

    def duration(self, least: float = 1.0, most: float = LONGEST) -> float:
        """Choose a duration in seconds."""
        return self.chance.uniform(least, most)
