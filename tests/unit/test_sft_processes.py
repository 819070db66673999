"""Training in two processes under accelerate (gloo, on the processor): what several GPUs run, but for the GPUs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfalign.errors import UserError
from selfalign.record.faults import AT
from selfalign.trainers import SFT
from selfalign.trainers._child import _other_number
from tests import warm
from tests.tiny import tiny_seeing_model
from tests.unit.test_sft import Quiet, job

PLAIN = SFT(learning_rate=1e-3, epochs=2, batch_size=4, micro_batch=1, save_every=1, precision="fp32", max_steps=5)
"""Eight rows in steps of four: two micro-batches a process; `long` is dropped, which leaves an odd one in some steps."""

ADAPTER: dict[str, Any] = {"lora_rank": 2, "gradient_checkpointing": False}


def launch(folder: Path, training: SFT, model: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """What `accelerate launch --multi_gpu` starts, torch's own launcher, on the processor (accelerate's `--cpu` needs MPI)."""
    spec = write_spec(folder, training, model)
    options = ["--standalone", "--nproc_per_node", "2", "--module", "selfalign.trainers._child", str(spec)]
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    said = folder / "said"
    with (
        said.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=surroundings(changes)
        ) as process,
    ):
        assert process.stdout
        told = process.stdout.read()  # its input stays open meanwhile: closed, it ends the training
    return subprocess.CompletedProcess(command, process.returncode, told, said.read_text("utf-8"))


def two_processes(folder: Path, training: SFT, model: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """The two processes of such a launch, begun warm: the launcher and three imports cost more than the training.
    tests/unit/test_launch.py has the launcher itself."""
    source = warm.source(True)
    if source is None:
        return launch(folder, training, model, **changes)
    spec = write_spec(folder, training, model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (stdin, ours), told, said = os.pipe(), folder / "told", folder / "said"
    with told.open("w") as out, said.open("w") as errors, os.fdopen(ours, "wb"), os.fdopen(stdin, "rb"):
        children = []
        for rank in "01":
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            files = (stdin, out.fileno(), errors.fileno())
            children.append(source.begin(warm.CHILD, [str(spec)], files, surroundings({**place, **changes})))
        while not any(codes := [child.poll() for child in children]) and None in codes:
            time.sleep(0.02)
        for child in children:  # what a launcher does where one has died
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
    code = max(abs(child.wait()) for child in children)
    return subprocess.CompletedProcess(["two processes"], code, told.read_text("utf-8"), said.read_text("utf-8"))


def write_spec(folder: Path, training: SFT, model: Path) -> Path:
    work = job(model, folder)
    work.work.mkdir(parents=True, exist_ok=True)
    spec = work.work / "spec.json"
    spec.write_text(json.dumps(training.spec(work)), "utf-8")
    return spec


def surroundings(changes: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


def norms(folder: Path) -> list[float]:
    """Of each step's gradient, before it was made shorter."""
    kept = json.loads((folder / "training" / "checkpoint-4" / "trainer_state.json").read_text("utf-8"))
    return [entry["grad_norm"] for entry in kept["log_history"]]


def result(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "training" / "result.json").read_text("utf-8"))
    return told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {}),
        (ADAPTER, {"ACCELERATE_MIXED_PRECISION": "no"}),
        # As accelerate's launcher tells it by a configuration for FSDP.
        (
            {**ADAPTER, "strategy": "fsdp", "max_grad_norm": 0.01},
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"},
        ),
    ],
    ids=["full", "lora", "lora, cut"],
)
def test_two_processes_teach_what_one_does(model: Path, tmp_path: Path, changes: dict[str, Any], told: dict[str, str]) -> None:
    training = replace(PLAIN, **changes)
    alone = replace(training, strategy="ddp").train(job(model, tmp_path / "alone"), Quiet())
    done = two_processes(tmp_path / "both", training, model, **told)
    assert done.returncode == 0, done.stderr[-2000:]

    both = result(tmp_path / "both")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum("total" in message for message in messages) == 1, "only the first process speaks"
    assert both["losses"] == pytest.approx(list(alone.losses), rel=1e-4)
    assert norms(tmp_path / "both") == pytest.approx(norms(tmp_path / "alone"), rel=1e-3), "of the whole gradient"
    assert (both["steps"], both["tokens"], len(both["trained"])) == (alone.steps, alone.tokens, len(alone.trained))
    assert [row["rule"] for row in both["dropped"]] == [row.rule for row in alone.dropped]
    name = "adapter_model.safetensors" if training.lora_rank else "model.safetensors"
    expected, found = load_file(tmp_path / "alone/model" / name), load_file(tmp_path / "both/model" / name)
    assert expected.keys() == found.keys()
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-3, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("changes", [{}, ADAPTER], ids=["full", "lora"])
def test_of_a_model_that_sees_too_two_processes_train_what_reads(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = tiny_seeing_model(tmp_path / "start")
    done = two_processes(tmp_path / "both", replace(PLAIN, max_steps=3, **changes), model)
    assert done.returncode == 0, done.stderr[-2000:]
    name = "adapter_model.safetensors" if changes else "model.safetensors"
    found, before = load_file(tmp_path / "both/model" / name), load_file(model / "model.safetensors")
    seeing = {key for key in found if "vision_tower" in key or "projector" in key}
    assert not seeing if changes else seeing and all(torch.equal(found[key], before[key]) for key in seeing)
    assert len(result(tmp_path / "both")["losses"]) == 3 and len(found) > len(seeing)


def test_two_processes_go_on_from_the_checkpoint_that_a_kill_left(model: Path, tmp_path: Path) -> None:
    unbroken = two_processes(tmp_path / "unbroken", PLAIN, model)
    killed = two_processes(tmp_path / "killed", PLAIN, model, **{AT: "train.checkpoint.after-manifest:3"})
    assert (unbroken.returncode, killed.returncode != 0) == (0, True), killed.stderr[-2000:]
    again = two_processes(tmp_path / "killed", PLAIN, model)
    assert again.returncode == 0, again.stderr[-2000:]
    started = next(json.loads(line) for line in again.stdout.splitlines() if "total" in json.loads(line))
    assert 0 < started["done"] < started["total"]
    expected, found = (load_file(tmp_path / name / "model/model.safetensors") for name in ("unbroken", "killed"))
    assert all(torch.equal(found[key], weight) for key, weight in expected.items())


def test_another_number_of_processes_goes_on_and_says_so(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    killed = two_processes(tmp_path / "run", PLAIN, model, **{AT: "train.checkpoint.after-manifest:3"})
    assert killed.returncode != 0
    progress, unbroken = Quiet(), PLAIN.train(job(model, tmp_path / "alone"), Quiet())
    with caplog.at_level("WARNING", "selfalign"):
        result = PLAIN.train(job(model, tmp_path / "run"), progress)
    (start,) = [each for each in progress.seen if each[0] == "start"]
    assert 0 < int(str(start[2])) < int(str(start[1])) and list(result.losses) == pytest.approx(unbroken.losses, rel=1e-4)
    assert "was written by 2 processes, and 1 goes on: the same steps, but not to the same bits" in caplog.text


def test_parts_that_deepspeed_wrote_are_not_read_by_another_number(tmp_path: Path) -> None:
    for rank in "01":
        (tmp_path / f"rng_state_{rank}.pth").touch()
    with pytest.raises(UserError, match=r"start 2 again \(--trainer.launch\), or remove"):
        _other_number(tmp_path, {"strategy": "deepspeed"})
