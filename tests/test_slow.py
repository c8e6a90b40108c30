"""The fast subset: `pytest -m "not slow"`."""

import pytest

from tests.slow import SLOW, TESTS, is_slow


@pytest.mark.parametrize("start", SLOW)
def test_every_entry_names_tests(start: str) -> None:
    files = [path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")]
    assert any(file.startswith(start) for file in files)


def test_tests_of_the_engine_are_fast() -> None:
    assert is_slow("chaos/test_chaos.py")
    assert not is_slow("test_tick.py")
