"""The machine finds every broken variant of the engine.

A fixed seed makes CI deterministic. With PGQUE_LONG=1 each run draws other steps.
"""

import faulthandler

import hypothesis
import pytest

from tests.fix_database import Databases
from tests.fix_engine import LONG
from tests.model.broken import RARE, VARIANTS, Variant, make_broken
from tests.model.machine import NO_SHRINKING, run
from tests.model.record import command, record
from tests.model.world import World

EXAMPLES = 1000 if LONG else 200
STEPS = 120
SEED = None if LONG else 1


@pytest.mark.parametrize("name", [name for name in VARIANTS if LONG or name not in RARE])
def test_the_machine_finds_the_broken_engine(dsn: str, name: str) -> None:
    faulthandler.cancel_dump_traceback_later()  # a busy machine may need long
    make_broken(dsn, VARIANTS[name])
    world = World(dsn)
    try:
        with pytest.raises((AssertionError, hypothesis.errors.Flaky)) as found:
            run(world, EXAMPLES, STEPS, seed=SEED, phases=NO_SHRINKING)
        figures = {
            "command": command("test_broken.py"),
            "examples": world.examples,
            "steps": world.steps,
            "found": said(found.value),
        }
        record(world.control, "variants", name, figures)
    finally:
        world.close()


def said(error: BaseException) -> str:
    """Return the failure's message: the first one if the failure could not be repeated."""
    inner = getattr(error, "exceptions", None)
    return said(inner[0]) if inner else str(error).splitlines()[0]


def test_a_variant_whose_text_is_missing_fails(
    databases: Databases, template: str, dsn: str
) -> None:
    with pytest.raises(AssertionError, match="must contain this text exactly once"):
        make_broken(dsn, Variant("_take_tick", (("no such text", ""),)))
