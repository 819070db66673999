"""A whole round whose training is cut over processes (FSDP2 or DeepSpeed, gloo, on the processor) or goes part by part through
main memory: killed, gone on with, and compared."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.fsdp import CPUOffloadPolicy
from transformers import AutoModelForCausalLM

from selfalign.errors import RunFailed
from selfalign.loop.align import align
from selfalign.record.faults import AT
from selfalign.record.store import Store
from selfalign.trainers import _process, _shard
from selfalign.types import Example
from tests import warm
from tests.e2e.tiny_recipe import tiny

SEEDS = [Example(f"seed-{n}", f"What is {n} and {n}?", f"It is {2 * n}, I am sure.") for n in range(12)]
TWO = shlex.join([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"])


MISSING = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed: pip install 'selfalign[deepspeed]'")
ZERO: dict[str, Any] = {"strategy": "deepspeed"}


def parts_of(given: dict[str, Any], processes: int) -> set[str]:
    """The files of a checkpoint that are each process's own."""
    each = range(processes)
    if given.get("strategy") != "deepspeed":
        return {".metadata", *(f"__{number}_0.distcp" for number in each)}
    weights = [f"zero_pp_rank_{number}_mp_rank_00_model_states.pt" for number in each]
    weights = weights if given.get("zero", 3) == 3 else ["mp_rank_00_model_states.pt"]
    return {*weights, *(f"zero_pp_rank_{number}_mp_rank_00_optim_states.pt" for number in each)}


def begin_two(command: Sequence[str], **options: Any) -> Any:
    """What that launcher starts for a training, begun warm: it and the imports of two processes cost more than the training."""
    source = warm.source(True)
    if source is None:
        return subprocess.Popen(command, **options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    (theirs, ours), (heard, told) = os.pipe(), os.pipe()
    for rank in "10":  # the first of them is the one that is waited for
        place = {"RANK": rank, "LOCAL_RANK": rank, **meeting}
        files = [theirs, told, options["stderr"].fileno()]
        child = source.begin(warm.CHILD, command[3:], files, {**options["env"], **place})
    os.close(theirs)
    os.close(told)
    child.stdin, child.stdout = os.fdopen(ours, "wb", 0), os.fdopen(heard, "rb")
    return child


@pytest.mark.parametrize(
    ("rank", "precision", "given", "processes"),
    [
        (0, "fp32", {"strategy": "fsdp", "launch": TWO}, 2),
        (4, "bf16", {"strategy": "fsdp", "launch": TWO}, 2),
        (0, "fp32", {"offload": True, "launch": TWO}, 2),
        (0, "fp32", {"offload": True}, 1),
        pytest.param(0, "fp32", {**ZERO, "zero": 2, "launch": TWO}, 2, marks=MISSING),
        pytest.param(4, "bf16", {**ZERO, "zero": 2, "offload": True, "launch": TWO}, 2, marks=MISSING),
        pytest.param(0, "fp32", {**ZERO, "gradient_checkpointing": True, "launch": TWO}, 2, marks=MISSING),
        pytest.param(4, "fp32", {**ZERO, "launch": TWO}, 2, marks=MISSING),
        pytest.param(0, "fp32", {**ZERO, "offload": True}, 1, marks=MISSING),
    ],
    ids=[
        *("full", "lora", "full-offload", "full-offload-one"),
        *("zero-2", "zero-2-lora-offload", "zero-3", "zero-3-lora", "zero-3-offload-one"),
    ],
)
def test_a_round_cut_over_two_processes_and_killed_teaches_what_one_does(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    precision: Any,
    given: dict[str, Any],
    processes: int,
) -> None:
    start = model_folder
    if not rank:  # stored in 16 bits, as models are, and trained in 32
        start = tmp_path / "start"
        shutil.copytree(model_folder, start)
        AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16).save_pretrained(start)
    recipe = tiny(rounds=1, lora_rank=rank)
    plain: Any = recipe.trainer
    trainer = replace(plain, precision=precision, micro_batch=1, save_every=3)
    alone = align(replace(recipe, trainer=trainer), str(start), SEEDS, tmp_path / "alone")

    cut = replace(recipe, trainer=replace(trainer, **given))
    if "launch" in given:
        monkeypatch.setattr(_process, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": begin_two}))
        monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    with monkeypatch.context() as patched, pytest.raises(RunFailed):
        patched.setenv(AT, "train.checkpoint.after-manifest")
        align(cut, str(start), SEEDS, tmp_path / "cut")
    work = next((tmp_path / "cut").rglob("checkpoint-3"))
    vouched = json.loads((work / "manifest.json").read_text("utf-8"))["files"]
    parts = {name for name in vouched if name.startswith("parts/")}
    assert parts == {f"parts/{name}" for name in parts_of(given, processes)}, "each process has its part"
    assert not list(work.glob("*.safetensors"))
    both = align(cut, str(start), SEEDS, tmp_path / "cut")

    expected, found = (run.folder / "round-01" / "model" for run in (alone, both))
    names = sorted(path.name for path in expected.iterdir())
    assert names == sorted(path.name for path in found.iterdir()), "one whole model"
    for name in (name for name in names if not name.endswith(".safetensors")):
        assert (expected / name).read_bytes() == (found / name).read_bytes(), name
    file = "adapter_model.safetensors" if rank else "model.safetensors"
    one, other = load_file(expected / file), load_file(found / file)
    assert one.keys() == other.keys() and {each.dtype for each in one.values()} == {each.dtype for each in other.values()}
    for key, weight in one.items():
        torch.testing.assert_close(other[key], weight, rtol=1e-2, atol=2e-4, msg=lambda text, key=key: f"{key}: {text}")
    told = []
    for run in (alone, both):
        with Store.read(run.folder) as store:
            told.append(store.training(1))
    assert told[0]["losses"] == pytest.approx(told[1]["losses"], rel=1e-4 if precision == "fp32" else 1e-2)
    assert {**told[0], "losses": 0} == {**told[1], "losses": 0}, "as many steps and tokens"


def test_offload_on_a_gpu_asks_for_locked_memory_and_for_gloo_beside_nccl(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    for place, name, fake in (
        (torch.distributed, "init_process_group", lambda backend, **_: asked.append(backend)),
        (torch.distributed, "get_world_size", lambda: 1),
        (torch.distributed.device_mesh, "init_device_mesh", lambda *_: None),
        (torch.distributed.fsdp, "fully_shard", lambda _, **how: asked.append(how["offload_policy"])),
        (torch.cuda, "set_device", lambda _: None),
        (torch, "set_num_threads", lambda _: None),
    ):
        monkeypatch.setattr(place, name, fake)
    gpu, net = torch.device("cuda"), AutoModelForCausalLM.from_pretrained(model_folder)
    _shard.join(gpu)
    _shard.cut(net, gpu, torch.bfloat16, offload=True)
    assert asked == ["cpu:gloo,cuda:nccl", *[CPUOffloadPolicy(pin_memory=True)] * 3], "two layers, and what is in none"
