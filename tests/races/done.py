"""How long a race goes on."""

import time
from collections import Counter

from tests.fix_engine import LONG
from tests.running import PATIENCE

SECONDS = 30 if LONG else 3


class Done:
    """Whether the time is over and all was done as often as is needed, or can never be."""

    def __init__(self) -> None:
        self.end = time.monotonic() + SECONDS
        self.times: Counter[str] = Counter()
        self.needed: dict[str, int] = {}

    def __call__(self) -> bool:
        enough = all(self.times[what] > times for what, times in self.needed.items())
        return time.monotonic() > self.end + (0 if enough else PATIENCE)
