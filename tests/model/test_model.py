"""A state machine tries to break P1 to P6, P9 and P10 on real connections.

A failure prints the shortest sequence of steps found, and how to repeat it. PGQUE_LONG=1 runs for
ten minutes.
"""

import faulthandler
import time
from collections.abc import Iterator

import pytest

from tests.fix_engine import LONG
from tests.model.machine import run
from tests.model.record import command, record
from tests.model.world import World

SECONDS = 600 if LONG else 0
EXAMPLES = 35
STEPS = 120


@pytest.fixture
def world(dsn: str) -> Iterator[World]:
    # Shrinking a failure takes longer than a test's time limit. No call here can hang.
    faulthandler.cancel_dump_traceback_later()
    world = World(dsn)
    yield world
    world.close()


def test_p1_p2_p3_p4_p5_p6_p9_p10_hold_for_random_steps(world: World) -> None:
    start = time.monotonic()
    failures = 0
    try:
        while True:
            run(world, EXAMPLES, STEPS)
            if time.monotonic() - start >= SECONDS:
                break
    except BaseException:
        failures = 1
        raise
    finally:
        figures = {
            "command": command("test_model.py"),
            "seconds": round(time.monotonic() - start),
            "examples": world.examples,
            "steps": world.steps,
            "failures": failures,
            "upsets": dict(sorted(world.upsets.items())),
        }
        record(world.control, "machine", None, figures)
