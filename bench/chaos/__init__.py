"""A long run under faults that checks its history at the end: `python -m bench.chaos`."""
