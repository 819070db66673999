"""All that a GPU does for selfalign, checked in one command of at most ten minutes.

    python benchmarks/gpu.py --out runs/gpu [--model M] [--vllm_python /opt/vllm/bin/python] [--only STEP …] [--minutes 10]
    python benchmarks/gpu.py --out runs/dry --processor --tiny    # to try it without a GPU, on a tiny random model

Each step is a process with a time limit, on a processor at most three times its share of the time that is left. One that fails or
takes too long is said, and the next one begins; what a machine
cannot do (no CUDA, a package that is not installed) is skipped and said. A table follows, and OUT/gpu.json has its figures; each
step's output stands in OUT/STEP.log. It exits with 1 where a step failed.

Steps that walk a path: a round of `gpu_recipe.py` through `selfalign run`, with `--trainer.method full`, `lora` and `qlora`, fp16
products, optimisers of 8 bits, a training killed behind a checkpoint and gone on with, `--trainer.launch` (accelerate, with as
many processes as there are GPUs), the model cut over the GPUs (`--trainer.strategy fsdp`; on a processor over two processes),
its weights in main memory (`--trainer.offload true`), Ray with two workers on shares of the GPUs, and VLLM, full and LoRA.
"texts" is how many of a round's pairs are to the letter those of the step `full` (another device, batch or engine may round
otherwise). "peak" is the most that was taken of the GPUs' memory above what was taken before, by nvidia-smi, twice a second,
generation included.

Steps that measure: those of `gpu_speed.py`, the memory of a training next to its formula (`memory.py`), and a whole `selfalign
run isara` on the bundled seeds, by stage (`stages.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from selfalign.record.store import Store

HERE = Path(__file__).parent
SLOWER = 10
"""Times the limits on a processor."""
LEAST = 5.0
"""Seconds below which a step is not begun."""
KILLED = "train.checkpoint.after-manifest"
"""Where the step `killed` is: behind the first checkpoint of its training."""


@dataclass(frozen=True)
class Step:
    name: str
    limit: float
    """Seconds."""
    command: Sequence[str]
    needs: Sequence[str] = ()
    """cuda, two GPUs, vllm, or packages."""
    dies_at: str = ""
    """The fault at which it is killed before it is given again."""
    shown: bool = False
    """Whether what it writes is printed."""


@dataclass(frozen=True)
class Found:
    step: str
    result: str
    """ok, FAILED, TOOK TOO LONG, or skipped."""
    seconds: float = 0.0
    why: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


def walks(options: argparse.Namespace, gpus: int) -> list[Step]:
    """The paths, each a run of its own."""
    seeds, held_out = (options.out / f"{name}.jsonl" for name in ("seeds", "held_out"))
    device = "cpu" if options.processor else "cuda"
    common = [sys.executable, "-m", "selfalign", "run", f"{HERE / 'gpu_recipe.py'}:short", str(seeds), "--quiet", "--json"]
    common += ["--held_out", str(held_out), "--model", options.model, "--device", device, "--guard.parts", "none"]
    common += ["--per_round", "4", "--trainer.max_steps", "4"] if options.tiny else []

    def walk(name: str, *more: str, limit: float = 60, needs: Sequence[str] = (), dies_at: str = "") -> Step:
        return Step(name, limit, [*common, "--out", str(options.out / name), *more], needs, dies_at)

    full, adapter = ("--trainer.method", "full"), ("--trainer.method", "lora")
    accelerate = f"{Path(sys.executable).parent / 'accelerate'} launch --num_processes {max(gpus, 1)} --num_machines 1"
    accelerate += " --mixed_precision no --dynamo_backend no" + ("" if gpus else " --cpu") + (" --multi_gpu" if gpus > 1 else "")
    cut = () if gpus else ("--trainer.launch", f"{Path(sys.executable).parent / 'torchrun'} --standalone --nproc_per_node 2")
    workers = ("--engine", "Ray", "--engine.inner", "HF", "--engine.inner.batch_size", "4", "--engine.workers", "2")
    share = ("--engine.num_gpus", str(min(gpus / 2, 1.0))) if gpus else ("--engine.num_cpus", "0.5")
    vllm = ("--engine", "VLLM", "--engine.batch_size", "4", "--engine.eager", "true", "--engine.python", options.vllm_python)
    return [
        walk("full", *full),
        walk("lora", *adapter),
        walk("qlora", "--trainer.method", "qlora", needs=["bitsandbytes"]),
        walk("fp16", *full, "--trainer.precision", "fp16", needs=["cuda"]),
        walk("adamw_8bit", *full, "--trainer.optimizer", "adamw_8bit", needs=["bitsandbytes"]),
        walk("paged_8bit", *full, "--trainer.optimizer", "paged_adamw_8bit", needs=["cuda", "bitsandbytes"]),
        walk("killed", *full, limit=90, dies_at=KILLED),
        walk("launch", *full, "--trainer.launch", accelerate, needs=["accelerate"]),
        walk("fsdp", *full, "--trainer.strategy", "fsdp", *cut, needs=[] if options.processor else ["two GPUs"]),
        walk("offload", *full, "--trainer.offload", "true", needs=["cuda"]),
        walk("ray", *full, *workers, *share, limit=90, needs=["ray"]),
        walk("vllm-full", *full, *vllm, limit=150, needs=["vllm"]),
        walk("vllm-lora", *adapter, *vllm, limit=150, needs=["vllm"]),
    ]


def measures(options: argparse.Namespace) -> list[Step]:
    small = ("--prompts", "4", "--tokens", "4", "--batch", "2", "--runs", "1", "--steps", "3") if options.tiny else ()
    python, device = sys.executable, "cpu" if options.processor else "cuda"

    def part(name: str, limit: float, needs: Sequence[str] = ()) -> Step:
        command = [python, str(HERE / "gpu_speed.py"), name, "--out", str(options.out), "--model", options.model]
        return Step(name, limit, [*command, "--device", device, "--vllm_python", options.vllm_python, *small], needs, shown=True)

    memory = [python, str(HERE / "memory.py"), "--shapes", "360M", "--rows", "32", "--batch", "32", "--device", device]
    whole = [python, "-m", "selfalign", "run", "isara", "safe_helpful", "--model", options.model, "--device", device, "--quiet"]
    return [
        part("rows", 60),
        part("generation", 120),
        part("training", 120),
        part("vllm", 180, ["vllm"]),
        Step("memory", 120, memory, ["cuda"], shown=True),
        Step("run", 300, [*whole, "--out", str(options.out / "run"), *options.run_options], ["cuda"]),
        Step("stages", 60, [python, str(HERE / "stages.py"), str(options.out / "run")], ["cuda"], shown=True),
    ]


def carry_out(step: Step, out: Path, limit: float, warm: Any = None) -> Found:
    """Runs a step to its end, its failure or its time limit.

    Args:
        warm: begins a process with everything imported, see `copies`.
    """
    began, deadline = time.monotonic(), time.monotonic() + limit
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    log = out / f"{step.name}.log"
    with Memory() as memory, log.open("wb") as output:
        if step.dies_at:
            code = run_until(step.command, output, {**environment, "SELFALIGN_FAULT_AT": step.dies_at}, deadline, warm)
            if code == 0:
                return Found(step.name, "FAILED", time.monotonic() - began, f"was not killed at {step.dies_at}")
        code = run_until(step.command, output, environment, deadline, warm)
    seconds = time.monotonic() - began
    if code is None:
        return Found(step.name, "TOOK TOO LONG", seconds, f"more than {limit:.0f} s; see {log}")
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
        return Found(step.name, "FAILED", seconds, f"exit code {code}: {lines[-1][:200]}; see {log}")
    return Found(step.name, "ok", seconds, figures={**figures(out, step.name), **memory.figures()})


def run_until(command: Sequence[str], output: Any, environment: Mapping[str, str], deadline: float, warm: Any) -> int | None:
    """Exit code; None where it was ended at the deadline, with all that it started in its session."""
    if warm is not None:
        child: Any = warm(command, output, environment)
    else:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    try:
        code: int = child.wait(max(deadline - time.monotonic(), 0.1))
        return code
    except subprocess.TimeoutExpired:
        return None
    finally:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, kind)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)


class Memory:
    """The most of the GPUs' memory that is taken while it is open, above what was taken before."""

    def __init__(self) -> None:
        self._before = self._most = taken() or 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5) and (now := taken()) is not None:
            self._most = max(self._most, now)

    def figures(self) -> dict[str, float]:
        return {"peak_gb": (self._most - self._before) / 1e9} if self._most else {}


def taken() -> int | None:
    """Bytes that are taken of all GPUs; None without nvidia-smi."""
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    command = [program, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else sum(2**20 * int(line) for line in done.stdout.split())


def figures(out: Path, name: str) -> dict[str, Any]:
    """What a step has left: the figures of a measurement, or the record of a run."""
    if (written := out / f"{name}.json").is_file():
        found: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return found
    if not (out / name / "run.sqlite").is_file():
        return {}
    with Store.read(out / name) as store:
        training = store.training(1)
        chosen = next((data for _, kind, data in store.events() if kind == "trainer"), {})
        formula = next((row["in_all"] for row in chosen.get("methods", ()) if row["method"] == chosen["method"]), None)
        losses = training.get("losses", ())
        model = store.model(1) if losses else None
    pairs, theirs = (texts(out / each) for each in (name, "full"))
    same = {"texts": f"{sum(a == b for a, b in zip(pairs, theirs, strict=False))} of {len(pairs)}"} if theirs else {}
    return {
        "method": chosen.get("method", ""),
        "losses": [losses[0], losses[-1]] if losses else [],
        "model_hash": model.hash if model else "",
        **({"formula_gb": formula / 1e9} if formula else {}),
        **same,
    }


def texts(run: Path) -> list[tuple[str, str]]:
    """Prompts and answers of the first round."""
    with contextlib.suppress(OSError):
        rows = map(json.loads, (run / "round-01" / "kept.jsonl").read_text(encoding="utf-8").splitlines())
        return [(row["prompt"], row["response"]) for row in rows]
    return []


def missing(step: Step, facts: Mapping[str, Any], options: argparse.Namespace) -> str:
    """Why a step cannot be taken here; "" where it can."""
    there: dict[str, Callable[[], bool]] = {
        "cuda": lambda: facts["kind"] == "cuda",
        "two GPUs": lambda: facts["gpus"] > 1,
        "vllm": lambda: bool(options.vllm_python) or importlib.util.find_spec("vllm") is not None,
    }
    lacking = [need for need in step.needs if not there.get(need, lambda need=need: importlib.util.find_spec(need) is not None)()]  # type: ignore[misc]
    return f"needs {' and '.join(lacking)}" if lacking else ""


def table(found: Sequence[Found]) -> str:
    lines = [
        "| step | result | s | method | first and last loss | texts as `full` | peak, GB | formula, GB | |",
        f"|{'---|' * 9}",
    ]
    for each in found:
        known = each.figures
        losses = " ".join(f"{loss:.3f}" for loss in known.get("losses", ()))
        sizes = [f"{known[name]:.2f}" if name in known else "" for name in ("peak_gb", "formula_gb")]
        cells = (known.get("method", ""), losses, known.get("texts", ""), *sizes, each.why)
        lines.append(f"| {each.step} | {each.result} | {each.seconds:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def prepare(options: argparse.Namespace) -> argparse.Namespace:
    """A few of the bundled pairs and prompts; the tiny model, where it is asked for."""
    options.out = options.out.absolute()
    options.out.mkdir(parents=True)
    bundled = HERE.parent / "src/selfalign/data/safe_helpful"
    for name, count in (("seeds", 24), ("held_out", 4)):
        lines = (bundled / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:: 2 if name == "seeds" else 40][:count]
        (options.out / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.tiny:
        make = (
            "import sys; from pathlib import Path; from tests.tiny import tiny_model; tiny_model(Path(sys.argv[1]), context=2048)"
        )
        subprocess.run([sys.executable, "-c", make, str(options.out / "model")], check=True, cwd=HERE.parent)
        options.model = str(options.out / "model")
    return options


def take(
    steps: Sequence[Step], options: argparse.Namespace, facts: Found, deadline: float, slower: float = 1, warm: Any = None
) -> list[Found]:
    """All of them, one after the other; what is known stands in OUT/gpu.json after each."""
    found, lacking = [facts], {step.name: missing(step, facts.figures, options) for step in steps}
    waiting = sum(not why for why in lacking.values())
    for step in steps:
        left = deadline - time.monotonic()
        if why := lacking[step.name] or ("no time is left" if left < LEAST else ""):
            found.append(Found(step.name, "skipped", why=why))
        else:
            fair = left if slower == 1 else 3 * left / waiting  # on a busy processor one that hangs leaves time for the others
            waiting -= 1
            found.append(carry_out(step, options.out, min(slower * step.limit, left, fair), warm))
            if step.shown:
                print((options.out / f"{step.name}.log").read_text(encoding="utf-8", errors="replace"))
        print(
            f"{step.name}: {found[-1].result}, {found[-1].seconds:.0f} s{'; ' if found[-1].why else ''}{found[-1].why}",
            flush=True,
        )
        (options.out / "gpu.json").write_text(json.dumps([asdict(each) for each in found], indent=1), encoding="utf-8")
    return found


def copies(options: argparse.Namespace) -> Callable[[Sequence[str], Any, Mapping[str, str]], Any] | None:
    """What begins the dry run's processes with everything imported (`tests/warm.py`), as that is most of what a tiny model's run
    takes; None where it cannot be had, or a GPU is measured."""
    if not (options.processor and options.tiny):
        return None
    sys.path.insert(0, str(HERE.parent))
    from tests import warm

    warm.ENVIRONMENT.update(os.environ)
    if (source := warm.source(True)) is None:
        return None

    def begin(command: Sequence[str], output: Any, environment: Mapping[str, str]) -> Any:
        module = command[2:3] if command[1] == "-m" else [Path(command[1]).stem]  # a script beside this one
        folder = str(Path.cwd() if command[1] == "-m" else HERE)
        files = [0, output.fileno(), output.fileno()]
        words = command[3:] if command[1] == "-m" else command[2:]
        return warm.Child(source.start(module[0], words, files, session=True, folder=folder, environment=dict(environment)))

    with Path(os.devnull).open("wb") as nothing:
        begin([sys.executable, "-m", "stat"], nothing, os.environ).wait()  # the imports are no step's time
    return begin


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--vllm_python", default="", help="an interpreter that has vLLM, where this one has not")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="these steps alone")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it; what would begin later is skipped")
    parser.add_argument(
        "--processor", action="store_true", help="run on the processor, with ten times the limits, to try the script"
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny random model and few rows, to try the script")
    parser.add_argument("run_options", nargs="*", help="behind --: options of the step run, a `selfalign run isara`")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    if options.out.exists():
        raise SystemExit(f"{options.out} exists already; name a new folder")
    if options.processor:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    names = [step.name for step in (*walks(options, 0), *measures(options))]
    if unknown := set(options.only) - set(names):
        raise SystemExit(f"--only: no step {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    options = prepare(options)
    slower = SLOWER if options.processor else 1
    speed = [sys.executable, str(HERE / "gpu_speed.py"), "facts", "--out", str(options.out)]
    facts = carry_out(Step("facts", 60, speed), options.out, slower * 60)
    print((options.out / "facts.log").read_text(encoding="utf-8", errors="replace"), flush=True)
    if facts.result != "ok":
        raise SystemExit(f"facts: {facts.result}: {facts.why}")
    if facts.figures["kind"] != "cuda" and not options.processor:
        raise SystemExit("there is no CUDA GPU here; --processor runs this on the processor, to try the script")
    steps = [*walks(options, facts.figures["gpus"]), *measures(options)]
    steps = [step for step in steps if not options.only or step.name in options.only]
    found = take(steps, options, facts, deadline, slower, copies(options))
    print(f"\n{table(found)}\n\n{options.out / 'gpu.json'} has all figures, and STEP.log beside it what each step wrote")
    return int(any(each.result not in ("ok", "skipped") for each in found))


if __name__ == "__main__":
    sys.exit(main())
