"""A few seconds of the long chaos run: see `python -m bench.chaos`."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench.chaos.__main__ import main
from bench.chaos.clock import find_library
from bench.chaos.faults import FAULTS
from bench.chaos.history import VIOLATIONS
from tests.fix_engine import LONG
from tests.samples import ROOT

SHORT = ["kill", "term", "zombie", "poison", "late", "sessions", "immediate", "hole", "read-only"]
SHORT_OF_OPERATORS = ["deeds", "clock", "rows"]

HITS = ("tries again", "session ended", "read-only")
TAKEN_OVER = "batch taken over"
PATIENCE = 180.0
"""Seconds that a short run may take: it takes about one minute."""


def test_p1_p3_p4_no_fault_loses_repeats_or_reorders_events(tmp_path: Path) -> None:
    faults = list(FAULTS) if LONG else SHORT
    missed = {*HITS, TAKEN_OVER}
    for seed in (4, 5, 6):
        result = run(tmp_path / f"{seed}.json", faults, seed)
        missed -= {name for name in missed if result["said"][name]}
        if not missed - {TAKEN_OVER}:
            break
    # A stopped member that also loses its connection never learns of the takeover: try again.
    for seed in (7, 8, 9):
        if TAKEN_OVER in missed:
            result = run(tmp_path / f"{seed}.json", ["zombie", "poison"], seed)
            missed -= {name for name in missed if result["said"][name]}
    # One fault may hit no process, but not every fault of a kind.
    assert not missed, f"no process logged: {missed}"


def test_p1_p3_p10_no_handler_and_no_operator_causes_loss_or_repetition(
    tmp_path: Path,
) -> None:
    missing = set() if find_library() else {"clock"}
    if LONG:
        pytest.skip("the long run has all faults")
    faults = [name for name in SHORT_OF_OPERATORS if name not in missing]
    result = run(tmp_path / "operators.json", faults, 11)
    assert all(deed["times"] for deed in result["deeds"].values())
    assert result["killed_by_handlers"] > 0
    if "clock" in faults:
        assert result["clock_steps"] > 0


def run(out: Path, faults: list[str], seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.chaos", f"--faults={','.join(faults)}", f"--out={out}"]
    if not LONG:
        command += ["--minutes=0.25", "--round=12", "--calm=3", "--rate=20", f"--seed={seed}"]
    status, printed = run_within(command, None if LONG else PATIENCE)
    assert out.exists(), printed
    result = json.loads(out.read_text())
    said = printed[-3000:]
    assert result["violations"] == dict.fromkeys(VIOLATIONS, 0), said
    assert result["crashed"] == result["left"] == 0, said
    # The faults really happened.
    assert {name for name in faults if name not in result["faults"]} <= {"disk", "loss", "clock"}, (
        said
    )
    poison = ["poison"] if {"poison", "deeds"} & set(faults) else []
    for name in ("sent", *poison, *(["failed"] if "sessions" in faults else [])):
        assert result["events"][name] > 0, said
    # Recovery depends on the machine's speed, so only the long run checks it.
    assert not LONG or status == 0, said
    return result


def run_within(command: list[str], seconds: float | None) -> tuple[int | None, str]:
    """Run a command; kill it and its children if it takes longer. Return its status and output."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return process.returncode, output.read()


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(SystemExit, match="unknown fault flood"):
        main(["--faults", "kill,flood"])
