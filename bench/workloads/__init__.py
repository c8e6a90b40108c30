"""The workloads, by their numbers in docs/performance.md.

Each module has ``WORKLOADS``, from number to function. A function that measures several workloads
at once appears several times and runs once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from bench.measure import Context, Row

Workload = Callable[[Context], list[Row]]

TITLES = {
    1: "send, one per transaction",
    2: "send_batch of 1,000 texts",
    3: "send_batch of 1,000 dicts",
    4: "receive and ack",
    5: "a Consumer with an empty handler",
    6: "send to handler",
    7: "send to handler, nothing configured",
    8: "an idle system",
    9: "cycles under a pinned xmin horizon",
    10: "receive and ack by backlog",
    11: "beside an old open transaction",
    12: "fan-out",
    13: "a cooperative group",
    14: "nack",
    15: "a thousand queues",
    16: "WAL per event",
    17: "memory of a consumer",
    18: "soak",
}
"""Titles of the workloads in tables."""

MODULES = {
    "produce": (1, 2, 3, 16),
    "consume": (4, 5, 10, 17),
    "latency": (6, 7, 11),
    "idle": (8,),
    "horizon": (9,),
    "fanout": (12,),
    "groups": (13,),
    "nacks": (14,),
    "rounds": (15,),
    "soak": (18,),
}
"""Names for ``--only``: the modules and their workloads."""


def load(number: int) -> Workload:
    """Return the function that measures a workload."""
    [name] = [name for name, numbers in MODULES.items() if number in numbers]
    module = importlib.import_module(f"bench.workloads.{name}")
    workloads: dict[int, Workload] = module.WORKLOADS
    return workloads[number]
