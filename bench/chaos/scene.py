"""What faults are done to, and what they note about it."""

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
"""Seconds that a fault lasts at most, but for transactions that are left open and for copies."""


@dataclass
class Scene:
    """All that a fault can be done to."""

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
    """Violations that a fault has seen itself: the kind, and a text."""
    deeds: list[str] = field(default_factory=list)
    """Deeds that have yet to be sent before each has been sent once more."""
    done: Counter[str] = field(default_factory=Counter)
    """How often each deed was sent."""
    copies: list[Copy] = field(default_factory=list)
    """The restored dumps that were checked."""

    def wait(self, seconds: float) -> None:
        """Wait so long, less if the run is interrupted."""
        self.ending.wait(seconds)

    def duration(self, least: float = 1.0, most: float = LONGEST) -> float:
        """Choose how long."""
        return self.chance.uniform(least, most)
