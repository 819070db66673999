"""What waiting threads cost a training on processors: OpenMP's own policy, a short spin, passive waiting, one thread fewer.

    python benchmarks/waiting.py [--busy 0] [--steps 6] [--runs 3]

Eight random layers of SmolLM2-135M's width take steps of four rows of 96 tokens (bf16 where the processor has it), each way in a
process of its own, in turn; medians of wall and processor's seconds a step are shown, the first two steps left out. `--busy`
starts so many processes that only compute: a machine that is not quiet. Threads are torch's default, all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

WAYS: dict[str, dict[str, str]] = {
    "as it is": {},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread fewer": {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))},
}
LEFT_OUT = 2


def train(steps: int) -> dict[str, float]:
    import torch

    from selfalign.models.device import half_type

    layer = torch.nn.TransformerEncoderLayer(576, 9, 1536, dropout=0.0, batch_first=True, norm_first=True)
    model = torch.nn.Sequential(torch.nn.TransformerEncoder(layer, 8, enable_nested_tensor=False), torch.nn.Linear(576, 8192))
    half = half_type(torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    rows, words = torch.randn(4, 96, 576), torch.randint(8192, (4 * 96,))
    walls, spent = [], []
    for _ in range(steps + LEFT_OUT):
        began, worked = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", half, enabled=half is not None):
            loss = torch.nn.functional.cross_entropy(model(rows).float().flatten(0, 1), words)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        walls.append(time.perf_counter() - began)
        spent.append(time.process_time() - worked)
    return {"wall": statistics.median(walls[LEFT_OUT:]), "processor": statistics.median(spent[LEFT_OUT:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("busy", 0), ("steps", 6), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(options.steps)))
        return
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    try:
        for _ in range(options.runs):
            for name, changes in WAYS.items():
                plain = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
                command = [sys.executable, __file__, "--child", "--steps", str(options.steps)]
                done = subprocess.run(command, env={**plain, **changes}, capture_output=True, text=True, check=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    finally:
        for process in busy:
            process.kill()
    print(
        f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n\n| threads | s/step | each run | processor's s/step |"
    )
    print("|---|---|---|---|")
    for name, runs in found.items():
        walls = ", ".join(f"{run['wall']:.2f}" for run in runs)
        middle = (statistics.median(run[key] for run in runs) for key in ("wall", "processor"))
        print(f"| {name} | {next(middle):.2f} | {walls} | {next(middle):.2f} |")


if __name__ == "__main__":
    main()
