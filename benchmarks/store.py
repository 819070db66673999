"""How fast the run folder is: batches committed, a million samples written, a run gone on with, status, export.

python benchmarks/store.py --rows 1000000 --folder /tmp/store-benchmark
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from selfalign.export.data import export_data
from selfalign.record.status import status
from selfalign.record.store import Store
from selfalign.types import Demonstration, Dropped, Example

IDENTITY = {"name": "benchmark"}
PER_ROUND = 50_000
TEXT = "How do I keep the garden shed dry in winter? Open it on dry days and put the tools on a rack above the floor. "
"""Prompt and response together have about 330 characters."""

PEAK = "int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]) / 1024"
"""MiB; the kernel's figure for this program alone (ru_maxrss starts from the parent's)."""

RESUME = f"""
import sys, time
began = time.perf_counter()
from selfalign.record.store import Store
with Store.open(sys.argv[1], {{"name": "benchmark"}}) as store:
    last = int(sys.argv[2])
    if sys.argv[3] == "pool":
        pool = [store.seeds(), *(store.kept(round) for round in range(1, last + 1))]
    else:
        pool = [store.seeds(), store.kept(last)]
    done = store.done_batches(last + 1, "respond")
    store.add_batch(last + 1, "respond", len(done), {{len(done): {{"text": "x"}}}}, 0.0)
spent = time.perf_counter() - began
print(f"{{spent:.1f}} s to the first new batch, {{sum(map(len, pool)):,}} samples in memory, peak {{{PEAK}:,.0f}} MiB")
"""


def example(round: int, slot: int) -> Example:
    """With eight demonstrations for the prompt and eight for the response, as ISARA has them."""
    shown = tuple(Demonstration(f"seed-{(slot * 7 + i) % 64}", 0.5 + i / 100) for i in range(8))
    id, prompt, response = f"r{round}-{slot}", f"{slot} {TEXT}", f"{TEXT}{TEXT}{round}"
    return Example(id, prompt, response, round, slot, "", "stop", "stop", shown, shown, {"x": slot / 7})


def journal(store: Store, batches: int, size: int) -> None:
    output = {"text": TEXT, "finish": "stop", "prompt_tokens": 350, "generated_tokens": 64, "prompt_text": TEXT * 12}
    began = time.perf_counter()
    for batch in range(batches):
        slots = range(batch * size, (batch + 1) * size)
        store.add_batch(999, "propose", batch, {slot: {"id": f"x-{slot}", **output} for slot in slots}, 0.1)
    spent = time.perf_counter() - began
    print(f"journal: {batches} batches of {size} outputs, {1000 * spent / batches:.1f} ms a batch")


def fill(store: Store, rounds: int, per_round: int) -> None:
    store.add_seeds([Example(f"seed-{i}", f"{i} {TEXT}", TEXT, slot=i) for i in range(64)], ())
    began = time.perf_counter()
    for round in range(1, rounds + 1):
        made = [example(round, slot) for slot in range(per_round)]
        kept, rest = made[: per_round // 2], made[per_round // 2 :]
        store.finish_round_samples(round, kept, [Dropped(e, "novelty", TEXT) for e in rest], per_round)
    spent = time.perf_counter() - began
    count = rounds * per_round
    print(f"samples: {count:,} with 16 demonstrations each in {spent:.0f} s, {count / spent:,.0f} samples/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("store-benchmark"))
    options = parser.parse_args()
    rounds, per_round = max(1, options.rows // PER_ROUND), min(options.rows, PER_ROUND)
    with Store.open(options.folder, IDENTITY) as store:
        journal(store, 200, 8)
        fill(store, rounds, per_round)
    size = sum(path.stat().st_size for path in options.folder.iterdir()) / 2**20
    print(f"folder: {size:,.0f} MiB")
    for what in ("latest", "pool"):
        arguments = [sys.executable, "-c", RESUME, str(options.folder), str(rounds), what]
        print(f"resume ({what}): {subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()}")
    with Store.read(options.folder) as store:
        began = time.perf_counter()
        status(store)
        print(f"status: {time.perf_counter() - began:.2f} s")
        for name in ("data.jsonl", "data.parquet"):
            began = time.perf_counter()
            count = export_data(store, options.folder / name)
            print(f"export {name}: {count:,} rows in {time.perf_counter() - began:.1f} s")
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
