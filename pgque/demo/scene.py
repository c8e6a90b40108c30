"""The state of the demo, for display."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgque.demo.watch import Reading


@dataclass
class Scene:
    """The data to display."""

    total: int
    processes: dict[str, int] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)
    reading: Reading | None = None
    elapsed: float = 0.0
    happenings: list[str] = field(default_factory=list)
