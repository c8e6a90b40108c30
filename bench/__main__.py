"""Measure pgque against plain PostgreSQL and against the queues that users would pick instead.

Each workload takes turns with its references in one run on one server: an embedded PostgreSQL 18
with durable settings, or the one at --dsn (as a role that may create databases). Results go to
bench/results as JSON, a Markdown table and plots; a run with --only replaces its own rows there.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

from bench import check, peers, report
from bench.measure import Context, Row
from bench.progress import Progress
from bench.server import Databases, databases, versions
from bench.workloads import MODULES, TITLES, Workload, load

RESULTS = Path(__file__).with_name("results")
SOAK = 18


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.list:
        _print_list()
        return 0
    if options.plots:
        return _draw(options.output)
    numbers = list(check.WORKLOADS) if options.check else _chosen(options.only, options.soak)
    options.quick = options.quick or options.check
    options.rounds = options.rounds or (3 if options.check else 2 if options.quick else 5)
    chosen = options.peers or ("textbook" if options.quick else "all")
    names = [] if options.check else _peers(chosen)
    with databases(options.dsn) as made, Progress() as progress:
        rows, failed = run(made, numbers, options, names, progress)
    if options.check:
        failed += check.failures(rows)
    else:
        _draw(options.output)
        print(f"written to {options.output}")
    for line in failed:
        print(f"FAILED: {line}")
    return 1 if failed else 0


def run(
    made: Databases,
    numbers: list[int],
    options: argparse.Namespace,
    names: list[str],
    progress: Progress,
) -> tuple[list[Row], list[str]]:
    """Measure workloads, each on a fresh database; return their rows and which ones failed.

    The results are written after each workload, unless it is for the check. A workload that fails
    leaves no row, and the others go on.
    """
    environment = made.environment() | {"quick": bool(options.quick), "rounds": options.rounds}
    rows: list[Row] = []
    failed: list[str] = []
    done: set[Workload] = set()
    for number in numbers:
        workload = load(number)
        if workload in done:
            continue
        done.add(workload)
        progress.begin(report.title(number))
        made.checkpoint()
        context = Context(
            dsn=made.create(f"workload_{number}", True),
            quick=options.quick,
            rounds=options.rounds,
            peers=names,
            progress=progress.say,
            new_database=made.create,
            tiny=getattr(options, "tiny", False),
            brief=options.check,
            soak_minutes=options.soak or 30,
        )
        try:
            found = workload(context)
        except Exception as error:
            progress.say(traceback.format_exc())
            failed.append(f"{report.title(number)}: {type(error).__name__}: {error}")
            continue
        finally:
            made.drop_all()
        for row in found:
            row.environment = _environment_of(row, environment)
            progress.say(report.summary(row))
        rows += found
        if not options.check:
            report.write(options.output, found)
    return rows, failed


def _environment_of(row: Row, environment: dict[str, object]) -> dict[str, object]:
    if row.subject not in peers.NAMES:
        return dict(environment)
    package = peers.load(row.subject).package
    return environment | {"packages": versions((package,) if package else ())}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small sizes: all in about three minutes")
    add("--only", nargs="+", metavar="NAME_OR_NUMBER", help="workloads to run; see --list")
    add("--peers", help="names with commas, all (that are installed) or none; all, quick: textbook")
    add("--dsn", help="use this server instead of the embedded one")
    add("--rounds", type=int, help="rounds of each workload: 5, with --quick 2")
    add("--soak", type=float, nargs="?", const=30.0, metavar="MINUTES", help="run the soak too")
    add("--list", action="store_true", help="list workloads and peers")
    add("--plots", action="store_true", help="draw the plots again from results.json")
    add("--output", type=Path, default=RESULTS, metavar="DIR", help="folder for the results")
    add("--check", action="store_true", help="the short check for CI: exit 1 beyond the bounds")
    return parser


def _chosen(only: list[str] | None, soak: float | None) -> list[int]:
    if not only:
        return [number for number in TITLES if number != SOAK or soak is not None]
    numbers: set[int] = set()
    for name in (part for item in only for part in item.split(",") if part):
        if name.isdigit() and int(name) in TITLES:
            numbers.add(int(name))
        elif name in MODULES:
            numbers.update(MODULES[name])
        else:
            sys.exit(f"no workload {name}: python -m bench --list shows them")
    return sorted(numbers)


def _peers(choice: str) -> list[str]:
    if choice == "none":
        return []
    if choice == "all":
        return peers.installed()
    names = choice.split(",")
    for name in names:
        why = "no such peer" if name not in peers.NAMES else peers.missing(name)
        if why:
            sys.exit(f"{name}: {why}")
    return names


def _print_list() -> None:
    for name, numbers in MODULES.items():
        for number in numbers:
            print(f"{number:>3}  {name:<9} {TITLES[number]}")
    print()
    for name in peers.NAMES:
        why = peers.missing(name)
        print(f"     {name:<14} {peers.version(name) if why is None else why}")


def _draw(folder: Path) -> int:
    from bench import plots

    for path in plots.draw(report.read(folder), folder):
        print(f"drawn: {path}")
    return 0


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(status)
