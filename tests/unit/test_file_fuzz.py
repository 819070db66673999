"""Some of the damaged files of options, models, checkpoints and records; `make soak` tries thousands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz_files.py"
COUNTS = {"configs": 20, "models": 10, "checkpoints": 40, "records": 30}


def test_damaged_files_are_used_or_refused_in_one_line() -> None:
    kinds = [word for kind, count in COUNTS.items() for word in (f"--{kind}", str(count))]
    command = [sys.executable, str(FUZZ), *kinds, "--seed", "1", "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for kind, count in COUNTS.items():
        row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {kind} | {count} |"))
        used, refused, faults = (int(cell) for cell in row.split("|")[3:6])
        # One of two checkpoints is damaged: the other one is used.
        assert used + refused == count and (refused > count // 4 or kind == "checkpoints") and faults == 0, row
