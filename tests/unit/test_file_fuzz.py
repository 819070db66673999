"""Some of the damaged files of options, models, checkpoints and records; `make soak` tries thousands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz_files.py"


@pytest.mark.parametrize(("kind", "count"), [("configs", 40), ("models", 15), ("checkpoints", 100), ("records", 60)])
def test_damaged_files_are_used_or_refused_in_one_line(kind: str, count: int) -> None:
    command = [sys.executable, str(FUZZ), f"--{kind}", str(count), "--seed", "1", "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {kind} | {count} |"))
    used, refused, faults = (int(cell) for cell in row.split("|")[3:6])
    # One of two checkpoints is damaged: the other one is used.
    assert used + refused == count and (refused > count // 4 or kind == "checkpoints") and faults == 0
