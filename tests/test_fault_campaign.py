"""Three minutes of the fault campaign: whatever befalls a long command, nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_nothing_is_lost_in_three_minutes(tmp_path: Path) -> None:
    out = tmp_path / "faults.md"
    script = str(ROOT / "benchmarks" / "faults.py")
    command = [sys.executable, script, "--minutes", "3", "--seed", "1", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    table = out.read_text(encoding="utf-8")
    cases = [json.loads(line) for line in out.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    # How many there are is up to the machine.
    assert cases and {case["verdict"] for case in cases} <= {"identical", "refused", "missed"}
    assert f"{sum(case['verdict'] != 'missed' for case in cases)} faults: " in table and ", 0 lost." in table
