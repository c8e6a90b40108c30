"""The duration of a race."""

import time
from collections import Counter

from tests.fix_engine import LONG
from tests.running import PATIENCE

SECONDS = 30 if LONG else 3


class Done:
    """Returns True once time is over and every needed count is exceeded.

    If a count stays too low, it returns True after PATIENCE seconds more.
    """

    def __init__(self) -> None:
        self.end = time.monotonic() + SECONDS
        self.times: Counter[str] = Counter()
        self.needed: dict[str, int] = {}

    def __call__(self) -> bool:
        enough = all(self.times[what] > times for what, times in self.needed.items())
        return time.monotonic() > self.end + (0 if enough else PATIENCE)
