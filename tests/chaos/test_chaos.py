"""The long run, for some seconds: `python -m bench.chaos` says how to let it go on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.chaos.__main__ import main
from bench.chaos.faults import FAULTS
from bench.chaos.history import VIOLATIONS
from tests.fix_engine import LONG
from tests.samples import ROOT

SHORT = ["kill", "term", "zombie", "poison", "late", "sessions", "immediate", "hole", "read-only"]


def test_p1_p3_p4_nothing_is_lost_doubled_or_out_of_order_whatever_dies(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    faults = list(FAULTS) if LONG else SHORT
    command = [sys.executable, "-m", "bench.chaos", f"--faults={','.join(faults)}", f"--out={out}"]
    if not LONG:
        command += ["--minutes=0.25", "--round=12", "--calm=3", "--rate=20", "--seed=4"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.exists(), done.stdout + done.stderr
    result = json.loads(out.read_text())
    said = done.stdout[-3000:]
    assert result["violations"] == dict.fromkeys(VIOLATIONS, 0), said
    assert result["crashed"] == result["left"] == 0, said
    # It did happen, and it did hit.
    assert {name for name in faults if name not in result["faults"]} <= {"disk", "loss"}, said
    for name in ("sent", "failed", "poison"):
        assert result["events"][name] > 0, said
    for name in ("tries again", "session ended", "batch taken over", "read-only"):
        assert result["said"][name] > 0, said
    # How soon the rate is back is a matter of the machine: see the exit status of a long run.
    assert not LONG or done.returncode == 0, said


def test_a_fault_that_there_is_not() -> None:
    with pytest.raises(SystemExit, match="no fault flood"):
        main(["--faults", "kill,flood"])
