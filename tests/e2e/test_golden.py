"""A change that should change nothing changes nothing: what a scripted run keeps, drops and says, as a digest.

A digest that differs is no fault where the method itself was changed on purpose: put the new one here in the same commit.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.conftest import SCRIPTED, Run
from tests.files import succeeded

FIELDS = ("id", "category", "prompt", "response", "rule", "prompt_demonstrations", "response_demonstrations")


def test_the_rows_of_a_scripted_run(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = ("--rounds", 2, "--per_round", 12, "--min_yield", 0, "--sampling.max_tokens", 96, "--prompt_sampling.max_tokens", 96)
    succeeded(cli("run", "isara", seeds_file, *SCRIPTED, *small, "--out", out, "--quiet"))
    rows = [
        {name: [shown["id"] for shown in row[name]] if name.endswith("demonstrations") else row.get(name) for name in FIELDS}
        for path in sorted(out.glob("round-0[12]/*.jsonl"))
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    ]
    assert {row["id"][:3] for row in rows} == {"r01", "r02"}
    assert hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16] == "b1c1f5467b165ebe"
