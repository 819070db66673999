"""Random kills: every run is killed -9 at a random moment, started again until it is done, and compared byte for byte.

    python benchmarks/soak.py --kills 200

A three-round run of the scripted engine and the null trainer by default; `--model FOLDER` takes a real (tiny) model through
the real engine and trainer instead. Prints a table; exit code 1 if anything was lost, duplicated or different.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SEEDS = "safe_helpful"


def command(out: Path, model: str | None) -> list[str]:
    common = [sys.executable, "-m", "selfalign", "run", "isara", SEEDS, "--out", str(out), "--rounds", "3", "--quiet"]
    if model is None:
        scripted = ["--engine", "Scripted", "--engine.delay", "0.02", "--engine.batch_size", "8"]
        return [*common, "--model", "scripted", "--per_round", "48", "--encoder", "Hashed", "--trainer", "NullTrainer", *scripted]
    return [*common, "--model", model, "--per_round", "8", "--encoder", "Hashed", "--min_yield", "0", "--trainer.save_every", "2"]


def finish(out: Path, model: str | None) -> None:
    subprocess.run(command(out, model), check=True, capture_output=True)


def kill_once(out: Path, model: str | None, after: float) -> bool:
    """Whether the run was still going when the moment came."""
    process = subprocess.Popen(command(out, model), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def result(out: Path) -> tuple[dict[str, int], str]:
    """(id counts of the exported pairs, one hash over the exports and the weights of the last round)."""
    target = out / "export.jsonl"
    subprocess.run(
        [sys.executable, "-m", "selfalign", "export", str(out), "--data", str(target)], check=True, capture_output=True
    )
    content = hashlib.sha256(target.read_bytes())
    for path in sorted(out.glob("round-*/*.jsonl")) + sorted(out.glob("round-*/model/*.safetensors")):
        content.update(path.read_bytes())
    ids = collections.Counter(json.loads(line)["id"] for line in target.read_text().splitlines())
    return dict(ids), content.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", help="folder of a model for the real engine and trainer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        finish(Path(folder) / "unbroken", options.model)
        length = time.monotonic() - began
        wanted, digest = result(Path(folder) / "unbroken")
        kills = runs = identical = lost = twice = 0
        while kills < options.kills:
            out = Path(folder) / f"run-{runs}"
            while kills < options.kills and kill_once(out, options.model, dice.uniform(0, length)):
                kills += 1
            finish(out, options.model)
            found, other = result(out)
            runs += 1
            identical += other == digest
            lost += len(wanted.keys() - found.keys())
            twice += sum(count - 1 for count in found.values())
            subprocess.run(["rm", "-rf", str(out)], check=True)
            print(f"\rkills {kills}, runs {runs}, identical {identical}", end="", flush=True)
    print(f"\n| kills | runs | identical | samples lost | duplicated | unbroken run, s |\n|{'---|' * 6}")
    print(f"| {kills} | {runs} | {identical} | {lost} | {twice} | {length:.1f} |")
    return 0 if identical == runs and not lost and not twice else 1


if __name__ == "__main__":
    sys.exit(main())
