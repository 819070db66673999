"""500 of the mutated seed files; `benchmarks/fuzz_seeds.py` runs 20,000.

In processes of their own: a damaged Parquet file can end the one that reads it, if it is asked the wrong question.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz_seeds.py"

FLIP_FOOTER = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from selfalign.errors import SeedError
from selfalign.seeds.read import read_seeds

path = Path(sys.argv[1])
pq.write_table(pa.table({"prompt": ["a", "b"], "response": ["c", "d"]}), path, store_schema=False)
raw = path.read_bytes()
for position in range(raw.rindex(b"schema") - 20, len(raw)):
    for bit in (1, 2, 4, 16, 64):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ bit]) + raw[position + 1 :])
        try:
            read_seeds(path)
        except SeedError:
            pass
print("survived")
"""


def test_mutated_files_are_read_or_refused_in_one_line() -> None:
    command = [sys.executable, str(FUZZ), "--files", "500", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "uncaught exceptions and broken rules: 0" in done.stdout
    total = re.search(r"\| total +\| +(\d+) \| +(\d+) \| +(\d+) \|", done.stdout)
    assert total is not None
    files, accepted, refused = map(int, total.groups())
    assert files == 500 == accepted + refused
    assert accepted > 50
    assert refused > 250


def test_no_flipped_bit_of_a_parquet_footer_ends_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FLIP_FOOTER, str(tmp_path / "s.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr[-500:]
