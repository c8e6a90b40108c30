"""A long run under faults, whose history is checked at the end: `python -m bench.chaos`."""
