"""Damaged files of options, model folders, checkpoints and records: each must be used or refused with one clear line.

    python benchmarks/fuzz_files.py --configs 5000 --models 500 --checkpoints 500 --records 500

Case i of a kind depends on (--seed, kind, i) alone. Every model is loaded in a process of its own, limited in memory. Exit code 1
if anything but an expected error escaped, took longer than a minute or more than 2 GiB, or if damaged content was read as good.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from selfalign.errors import RunFailed, UserError

sys.path.insert(0, str(Path(__file__).parents[1]))
LIMIT_SECONDS, LIMIT_BYTES = 60, 2**31
Job = Callable[[random.Random, Path], str]
ODD: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        10**30,
        1e308,
        float("nan"),
        float("inf"),
        "",
        " ",
        "\0",
        "\u202e",
        "../../x",
        "/dev/zero",
        "x" * 70_000,
    ),
    *([], {}, [[]], {"a": {"b": [1, None]}}, {"class_path": "os.system", "init_args": {"command": "true"}}, "os.system"),
    *({"class_path": "selfalign.engines.HF", "init_args": {"dtype": 7}}, ["x"] * 500, "2024-01-02", "0x10", "*a", "!!int x"),
]


# Bytes of any file.


def flip(rng: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.choice([0, 1, rng.randrange(len(raw) + 1), max(len(raw) - 1, 0)])]


def insert(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    pieces = [
        b"\0",
        b"{",
        b"[",
        b'"',
        b":",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"NaN",
        b"9" * 5000,
        b"\n",
        b"\t",
        b"\\u0000",
        b"---\n",
    ]
    return raw[:at] + rng.choice(pieces) * rng.choice([1, 1, 3, 2000]) + raw[at:]


def drop(rng: random.Random, raw: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + raw[at + rng.randint(1, 200) :]


def other(rng: random.Random, raw: bytes) -> bytes:
    deep = rng.choice([100, 1000, 100_000])
    return rng.choice(
        [b"", b"{}", b"[]", b"null", rng.randbytes(300), b"[" * deep, b'{"a":' * deep + b"1" + b"}" * deep, raw + raw]
    )


BYTES = [flip, flip, flip, cut, insert, drop, other]


def place_of(rng: random.Random, value: Any) -> tuple[Any, Any]:
    """A container somewhere inside, and a key of it."""
    holders = [value]
    for each in holders:
        inner = each.values() if isinstance(each, dict) else each
        holders += [found for found in inner if isinstance(found, (dict, list)) and found]
    holder = rng.choice(holders)
    return holder, rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))


def change(rng: random.Random, value: Any) -> None:
    holder, key = place_of(rng, value)
    kind = rng.random()
    if kind < 0.7:
        holder[key] = rng.choice(ODD)
    elif kind < 0.85 and isinstance(holder, dict):
        holder[rng.choice([f"{key}x", key.upper(), f"{key}.class_path", "class_path", "__path__", ""])] = holder.pop(key)
    else:
        del holder[key]


# Files of options.

PIECES = [
    *(
        "a: &a [x, x]\nb: [*a, *a]\n",
        "<<: {rounds: 3}\n",
        "--- \nrounds: 1\n",
        "%TAG ! x\n",
        "x: !!python/object/apply:os.system [ls]\n",
    ),
    *(
        "engine: other.Thing\n",
        "engine: {class_path: evil.Thing}\n",
        "\trounds: 1\n",
        "? [a, b]\n: 1\n",
        "rounds: 1\nrounds: 2\n",
    ),
    *(
        "a: &a [*a]\n",
        "rounds: 0o7\n",
        "rounds: 1_0\n",
        "rounds: 1:30\n",
        "sampling: /dev/zero\n",
        "trainer: pipe\n",
        "config: pipe\n",
    ),
]


def config_case(rng: random.Random, folder: Path) -> str:
    from selfalign.cli.load import load_recipe, named_recipe
    from selfalign.cli.options import parse
    from selfalign.cli.recipe_options import build, part_options
    from selfalign.cli.run import make_parser

    known: dict[str, Any] = config_case.__dict__
    if "make" not in known:
        known["make"] = load_recipe("sft")
        known["parser"] = make_parser(known["make"], "run")
        known["plain"] = _plain_config(known["make"], known["parser"])
    options = json.loads(json.dumps(known["plain"]))
    for _ in range(rng.choice([0, 1, 1, 2])):
        change(rng, options)
    raw = yaml.safe_dump(options, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        at = rng.choice([0, len(raw)])
        raw = raw[:at] + rng.choice(PIECES).encode() + raw[at:]
    if rng.random() < 0.3:
        raw = rng.choice(BYTES)(rng, raw)
    path = folder / "options.yaml"
    path.write_bytes(raw)
    arguments = ["--config", str(path)]
    if named_recipe(arguments, "run") != "sft":
        return "accepted"
    build(known["make"], known["parser"], parse(known["parser"], arguments, part_options(known["make"])))
    return "accepted"


def _plain_config(make: Any, parser: Any) -> dict[str, Any]:
    from selfalign.cli.options import parse
    from selfalign.cli.recipe_options import part_options, resolved

    given = ["sft", "safe_helpful", "--model", "m", "--out", "o", "--engine", "Scripted", "--encoder", "Hashed"]
    found: dict[str, Any] = yaml.safe_load(resolved(parser, parse(parser, given, part_options(make))))
    return found


# Folders of models.


def model_case(rng: random.Random, folder: Path) -> str:
    from tests.tiny import tiny_model

    whole = folder.parent / "whole"
    if not whole.is_dir():
        tiny_model(whole)
    model = folder / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(whole, model)
    for _ in range(rng.choice([1, 1, 2])):
        damage_folder(rng, model)
    report, send = os.pipe()
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_AS, (_used() + LIMIT_BYTES, resource.RLIM_INFINITY))
        signal.alarm(LIMIT_SECONDS)
        os.write(send, outcome(lambda: load(model)).encode("utf-8", "replace")[:60_000])
        os._exit(0)
    os.close(send)
    with os.fdopen(report, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    return said or f"the process died: {status}"


def damage_folder(rng: random.Random, model: Path) -> None:
    paths = sorted(path for path in model.iterdir() if path.is_file())
    path = rng.choice(paths)
    kind = rng.random()
    content = None
    with suppress(ValueError):  # an earlier damage may have left no JSON
        content = json.loads(path.read_text()) if kind < 0.35 and path.suffix == ".json" else None
    if content is not None:
        change(rng, content)
        path.write_text(json.dumps(content))
    elif kind < 0.8:
        path.write_bytes(rng.choice(BYTES)(rng, path.read_bytes()))
    elif kind < 0.9:
        path.unlink()
        rng.choice(
            [path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path), lambda: path.symlink_to("/dev/zero"), int]
        )()
    else:
        weights = model / "model.safetensors"
        index = {
            "weight_map": {
                "lm_head.weight": rng.choice(["../whole/model.safetensors", "/etc/passwd", "a.bin", "w.safetensors", 7])
            }
        }
        weights.unlink(missing_ok=True)
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        (model / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\nX\x05\x00\x00\x00false\x85R.")


def load(model: Path) -> str:
    from selfalign.engines import HF
    from selfalign.types import Example, ModelRef, Request, Sampling

    engine = HF(dtype="float32", device="cpu")
    seed = Example("one", "How do I bake bread?", "Slowly.")
    with engine.open(engine.check(ModelRef(str(model)), [seed], "auto"), "auto") as session:
        session.generate([Request("a", (), "Hello?", 1)], Sampling(max_tokens=4))
        session.likelihood([seed])
    return "accepted"


def _used() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


# Checkpoints.


def checkpoint_case(rng: random.Random, folder: Path) -> str:
    from selfalign.record.checkpoints import MANIFEST, newest_verified, write_manifest

    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    good: dict[str, dict[str, bytes]] = {}
    for step in (4, 8):
        made = work / f"checkpoint-{step}"
        made.mkdir(parents=True)
        (made / "model.safetensors").write_bytes(rng.randbytes(500))
        (made / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        write_manifest(made, "key")
        good[made.name] = {path.name: path.read_bytes() for path in made.iterdir() if path.name != MANIFEST}
    target = work / f"checkpoint-{rng.choice([4, 8, 8])}"
    path = target / rng.choice([MANIFEST, MANIFEST, MANIFEST, "model.safetensors", "trainer_state.json"])
    kind = rng.random()
    if kind < 0.25 and path.name == MANIFEST:
        content = json.loads(path.read_text())
        change(rng, content)
        path.write_text(json.dumps(content))
    elif kind < 0.7:
        path.write_bytes(rng.choice(BYTES)(rng, path.read_bytes()))
    elif kind < 0.85:
        path.unlink()
        rng.choice(
            [path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(path), lambda: path.symlink_to("/dev/zero"), int]
        )()
    else:
        target.rename(
            work / rng.choice(["checkpoint-99999", "checkpoint-0", "checkpoint-5", f"checkpoint-{'9' * 30}", "checkpoint-²"])
        )
    found, notes = newest_verified(work, "key")
    if found is None or found.name not in good:
        return f"refused {notes}" if found is None else f"a renamed checkpoint was taken: {found.name}"
    there = {path.name: path.read_bytes() for path in found.iterdir() if path.name != MANIFEST}
    return "accepted" if there == good[found.name] else f"a damaged checkpoint was taken: {found.name}"


# Records.


def record_case(rng: random.Random, folder: Path) -> str:
    known: dict[str, Any] = record_case.__dict__
    if "raw" not in known:
        known["raw"], known["content"] = _a_record(folder / "made")
    run = folder / "run"
    run.mkdir(exist_ok=True)
    for path in run.iterdir():
        path.unlink()
    (run / "run.sqlite").write_bytes(rng.choice([flip, flip, flip, flip, cut, drop, insert])(rng, known["raw"]))
    content = _content(run)
    return "accepted" if content == known["content"] else "damaged content was read as good"


def _a_record(folder: Path) -> tuple[bytes, str]:
    from selfalign.record.store import Store
    from selfalign.types import Dropped, Example, Metric, ModelRef, Outcome

    shutil.rmtree(folder, ignore_errors=True)
    with Store.open(folder, {"name": "fuzzed", "seed": 1}) as store:
        seeds = [Example(f"s{i}", f"prompt {i} ü", f"response {i}", metadata={"a": "b"}) for i in range(20)]
        store.add_seeds(seeds[:16], seeds[16:])
        store.add_model(0, ModelRef("base", hash="h"))
        made = [Example(f"r01-{i:05}", f"new {i}", f"answer {i}", round=1, slot=i, scores={"x": i / 7}) for i in range(60)]
        store.add_batch(1, "propose", 0, {i: {"id": made[i].id, "text": made[i].prompt} for i in range(60)}, 1.5)
        store.finish_round_samples(1, made[:40], [Dropped(each, "length", "9 words") for each in made[40:]], 60)
        outcomes = tuple(Outcome(f"h{i}", i / 3) for i in range(30))
        store.finish_evaluation(1, [Metric("m", 1.25, 1.0, 1.5, 30, unit="amount", better="higher", outcomes=outcomes)], 2.0)
    return (folder / "run.sqlite").read_bytes(), _content(folder)


def _content(folder: Path) -> str:
    from selfalign.record.store import Store

    with Store.read(folder) as store:
        kept, outcomes = [store.kept(round) for round in range(3)], store.outcomes(1, "m")
        rest = (
            store.identity(),
            store.state(),
            store.seeds(),
            store.dropped(1),
            store.metrics(1),
            store.done_batches(1, "propose"),
        )
        return repr((kept, outcomes, rest, store.stage(1, "filter"), store.model(0)))


KINDS: dict[str, Job] = {"configs": config_case, "models": model_case, "checkpoints": checkpoint_case, "records": record_case}


def outcome(job: Callable[[], str]) -> str:
    """ "accepted", "refused …", or what went wrong."""
    try:
        return job()
    except (UserError, RunFailed) as error:
        message = str(error)
        return (
            f"refused {message}" if message.strip() and "\n" not in message and len(message) < 75_000 else f"unclear: {message!r}"
        )
    except BaseException as error:  # panics of libraries are no `Exception`
        where = traceback.extract_tb(error.__traceback__)[-4:]
        return f"{type(error).__name__}: {error} at {[f'{Path(at.filename).name}:{at.lineno}' for at in where]}"


def worker(task: tuple[str, int, range]) -> list[tuple[int, str, float]]:
    kind, seed, numbers = task
    found = []
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "case")
        folder.mkdir()
        os.chdir(folder)
        os.mkfifo("pipe")
        for number in numbers:
            rng, began = random.Random(f"{seed}/{kind}/{number}"), time.monotonic()
            signal.alarm(2 * LIMIT_SECONDS)
            said = outcome(lambda rng=rng: KINDS[kind](rng, folder))  # type: ignore[misc]
            signal.alarm(0)
            found.append((number, said, time.monotonic() - began))
        os.chdir("/")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found if peak < LIMIT_BYTES else [*found, (-1, f"the process took {peak / 2**20:.0f} MiB", 0.0)]


def fuzz(kind: str, count: int, seed: int, processes: int) -> bool:
    began = time.monotonic()
    pieces = [(kind, seed, range(at, min(at + 50, count))) for at in range(0, count, 50)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found: list[tuple[int, str, float]] = []
        for piece in pool.imap_unordered(worker, pieces):
            found += piece
            sys.stderr.write(f"{kind}: {len(found)} of {count}\n")
    sorts = Counter(said.partition(" ")[0] if said.startswith(("accepted", "refused ")) else "fault" for _, said, _ in found)
    slowest = max(found, key=lambda case: case[2])
    print(
        f"| {kind} | {count} | {sorts['accepted']} | {sorts['refused']} | {sorts['fault']} |"
        f" {slowest[2]:.1f} (case {slowest[0]}) | {time.monotonic() - began:.0f} |",
        flush=True,
    )
    for number, said, _ in sorted(found):
        if not said.startswith(("accepted", "refused ")):
            print(f"{kind} {number}: {said[:600]}", flush=True)
    return not sorts["fault"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    print(f"| what | cases | used | refused | faults | slowest, s | all, s |\n|{'---|' * 7}", flush=True)
    counts = {kind: getattr(options, kind) for kind in KINDS}
    results = [fuzz(kind, count, options.seed, options.processes) for kind, count in counts.items() if count]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
