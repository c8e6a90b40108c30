"""Inject faults for minutes while processes send and consume, then check the history.

The exit status is 1 if an event was lost, delivered twice, delivered out of order or delivered
without being sent, if a process crashed, or if the rate of delivery did not recover within five
seconds of the last fault. As root on Linux, the run also fills a small disk and drops packets in a
private network namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
from pathlib import Path

from rich.console import Console

from bench.chaos import network
from bench.chaos.faults import FAULTS
from bench.chaos.report import as_json, failures, show
from bench.chaos.run import Result, Run
from bench.chaos.server import ChaosServer, small_disk
from bench.progress import Progress
from bench.server import databases


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, and return the exit status."""
    options = _parser().parse_args(arguments)
    names = options.faults.split(",") if options.faults else list(FAULTS)
    if options.dsn is not None:
        names = [name for name in names if not FAULTS[name].needs]
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        sys.exit(f"unknown fault {unknown[0]}: choose from {', '.join(FAULTS)}")
    seed = random.randrange(1 << 31) if options.seed is None else options.seed
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    own_network = "loss" in names and options.dsn is None and network.enter_own_network()
    with Progress() as progress:
        progress.begin(f"{options.minutes:g} minutes of faults, seed {seed}")
        result = _run(options, names, seed, own_network, progress)
    show(result, Console())
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(as_json(result, seed), indent=2) + "\n")
    found = failures(result)
    for line in found:
        print(f"FAILED: {line}")
    print(f"seed {seed}: {'failed' if found else 'nothing lost, nothing handled twice'}")
    return 1 if found else 0


def _run(
    options: argparse.Namespace,
    names: list[str],
    seed: int,
    own_network: bool,
    progress: Progress,
) -> Result:
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk()) if "disk" in names else None
        dsn = options.dsn
        if dsn is not None:
            dsn = stack.enter_context(databases(dsn)).create("chaos", False)
        server = ChaosServer(dsn, options.pg, disk)
        stack.callback(server.stop)
        return Run(
            server,
            names=names,
            seconds=options.minutes * 60,
            seed=seed,
            rate=options.rate,
            round_seconds=options.round,
            calm_seconds=options.calm,
            own_network=own_network,
            say=progress.say,
        ).make()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, help="minutes of faults (10)")
    add("--faults", metavar="NAMES", help=f"with commas; all: {','.join(FAULTS)}")
    add("--seed", type=int, help="seed of the random schedule (random, and printed)")
    add("--rate", type=float, default=12.0, help="events per second, all producers together (12)")
    add("--round", type=float, default=25.0, help="seconds of faults in a round (25)")
    add("--calm", type=float, default=10.0, help="seconds without faults after each round (10)")
    add("--pg", type=int, default=18, help="version of the embedded server: 18 or 16 (18)")
    add("--dsn", help="a superuser's DSN of your own server; the role chaos_app remains there")
    add("--out", type=Path, metavar="FILE", help="write the figures to this file, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
