"""A training started through a command of several processes, by the real path: what several GPUs go through."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from selfalign.errors import RunFailed, UserError
from selfalign.models.device import device_memory, own_gpu
from selfalign.record.faults import AT
from selfalign.trainers import SFT, _child
from tests.tiny import tiny_model
from tests.unit.test_sft import Quiet, job

TWO = shlex.join([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"])
ONE = shlex.join([sys.executable, "-c", "import os, sys; os.execv(sys.executable, [sys.executable, '-m', *sys.argv[2:]])"])
"""As accelerate's with a single process: nothing in the environment says that it was launched."""
PLAIN = SFT(learning_rate=1e-3, epochs=1, batch_size=4, micro_batch=1, precision="fp32", max_steps=2, save_minutes=0.0)


def test_what_the_processes_report_reaches_the_parent(tmp_path: Path) -> None:
    model, heard = tiny_model(tmp_path / "start", pad="eos", context=256), Quiet()
    alone = replace(PLAIN, launch=ONE).train(job(model, tmp_path / "alone"), Quiet())
    both = replace(PLAIN, launch=TWO).train(job(model, tmp_path / "both"), heard)
    assert both.losses == pytest.approx(list(alone.losses), rel=1e-4) and both.trained == alone.trained
    steps = [("advance", 1, f"loss {loss:.3f}") for loss in both.losses]
    assert heard.seen == [("start", 2, 0), *steps, ("finish",)]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, r"says strategy = fsdp, and the trainer ddp: give --trainer\.strategy fsdp, or change"),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true"},
            r"says strategy = deepspeed, and the trainer ddp: give --trainer\.strategy deepspeed",
        ),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, r"says precision = fp16, and the trainer fp32: give --trainer\.precision fp16"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, r"asks for dynamo_backend \(torch\.compile\), which is not supported"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, r"started 2 processes \(OMPI_COMM_WORLD_SIZE\) that were told no RANK"),
    ],
)
def test_a_training_is_not_begun_where_its_launcher_says_something_else(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    launcher = shlex.join(["env", *(f"{name}={value}" for name, value in variables.items()), *shlex.split(ONE)])
    with pytest.raises(RunFailed, match=said):  # no model is there to load
        replace(PLAIN, launch=launcher).train(job(tmp_path / "nowhere", tmp_path / "cut"), Quiet())


ZERO = "distributed_type: DEEPSPEED\nmixed_precision: bf16\ndeepspeed_config:\n  "
FSDP = "distributed_type: FSDP\nmixed_precision: 'no'\nfsdp_config:\n  "
FILE = (
    '{{"zero_optimization": {{"stage": 3, "offload_optimizer": {{"device": "cpu"}}, "offload_param": {{"device": "{0}"}}}}, {1}}}'
)


def configuration(folder: Path, text: str, file: str = "") -> str:
    """A launcher with a configuration of accelerate's, and with a file of DeepSpeed's where there is a text of one."""
    (folder / "zero.json").write_text(file, "utf-8")
    own = folder / "own.yaml"
    named = text.replace("ZERO", str(folder / "zero.json"))
    own.write_text(f"compute_environment: LOCAL_MACHINE\nnum_processes: 2\nmain_process_port: 0\n{named}\n", "utf-8")
    return shlex.join([sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(own)])


@pytest.mark.parametrize(
    ("text", "file", "options"),
    [
        ("distributed_type: MULTI_GPU\nmixed_precision: fp16", "", {"precision": "fp16", "strategy": "ddp"}),
        (f"{FSDP}fsdp_version: 2\n  fsdp_offload_params: true", "", {"strategy": "fsdp", "offload": True}),
        (f"{FSDP}fsdp_activation_checkpointing: true", "", {"strategy": "fsdp", "gradient_checkpointing": True}),
        (f"{ZERO}zero_stage: 2\n  gradient_clipping: 1.0", "", {"strategy": "deepspeed", "zero": 2, "precision": "bf16"}),
        (f"{ZERO}zero_stage: 3\n  offload_optimizer_device: cpu\n  offload_param_device: cpu", "", {"zero": 3, "offload": True}),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: ZERO",
            FILE.format("cpu", '"bf16": {"enabled": true}, "train_batch_size": "auto"'),
            {"strategy": "deepspeed", "zero": 3, "offload": True, "precision": "bf16"},
        ),
        ("distributed_type: 'NO'\nuse_cpu: true\nnum_processes: 1", "", {"device": "cpu", "strategy": "ddp"}),
    ],
)
def test_a_configuration_of_accelerate_becomes_options(tmp_path: Path, text: str, file: str, options: dict[str, Any]) -> None:
    settled = SFT(launch=configuration(tmp_path, text, file)).settled(None)
    assert {name: getattr(settled, name) for name in options} == options
    assert settled.settled(None) == settled


@pytest.mark.parametrize(
    ("text", "file", "own", "said"),
    [
        (
            "distributed_type: MULTI_GPU\nmixed_precision: fp16",
            "",
            {"precision": "bf16"},
            r"give --trainer\.precision fp16, or change",
        ),
        ("distributed_type: MULTI_GPU\nmixed_precision: fp8", "", {}, "mixed_precision: fp8, which is not supported"),
        (f"{FSDP}fsdp_version: 2", "", {"strategy": "ddp"}, "says strategy = fsdp, and the trainer ddp"),
        (f"{FSDP}fsdp_version: 2", "", {"offload": True}, "says offload = false, and the trainer true"),
        (f"{FSDP}fsdp_sharding_strategy: SHARD_GRAD_OP", "", {}, "fsdp_sharding_strategy: SHARD_GRAD_OP, which is not supported"),
        (
            f"{FSDP}fsdp_version: 2",
            "",
            {"method": "qlora"},
            "strategy = fsdp cuts a model over several devices: not a base of 4 bits",
        ),
        (f"num_processes: 1\n{FSDP}fsdp_version: 2", "", {}, "asks for fsdp over one process, which is not supported"),
        (f"{ZERO}zero_stage: 1", "", {}, "ZeRO stage 1, which is not supported"),
        (f"{ZERO}zero_stage: 3\n  offload_optimizer_device: cpu", "", {}, "offload to cpu and none, which is not supported"),
        (f"{ZERO}zero_stage: 2\n  gradient_accumulation_steps: 4", "", {}, "gradient_accumulation_steps, which is not supported"),
        (f"{ZERO}zero_stage: 2\n  gradient_clipping: 0.5", "", {}, r"give --trainer\.max_grad_norm 0\.5"),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config:\n  deepspeed_config_file: ZERO",
            FILE.format("cpu", '"optimizer": {"type": "Lamb"}'),
            {},
            "asks for optimizer in .*zero.json, which is not supported",
        ),
        ("distributed_type: MULTI_GPU\ndynamo_config:\n  dynamo_backend: INDUCTOR", "", {}, "torch.compile"),
        (
            "distributed_type: MULTI_GPU\ngpu_ids: 2,3",
            "",
            {"device": "cuda:1"},
            "says gpu_ids: 2,3, and the trainer device = cuda:1",
        ),
        ("distributed_type: XLA", "", {}, "asks for TPUs"),
        ("distributed_type: MULTI_CPU\nuse_cpu: true", "", {}, "says num_processes: 2 and starts one"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2", "", {}, "starts this machine's processes alone"),
        ("distributed_type: MULTI_GPU\nnonsense: 2", "", {}, "accelerate says: .*unknown keys"),
    ],
)
def test_what_accelerate_is_configured_to_do_otherwise_is_refused_beforehand(
    tmp_path: Path, text: str, file: str, own: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        SFT(launch=configuration(tmp_path, text, file), **own).check()


def test_processes_that_cannot_share_the_gpus_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 80))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda each: SimpleNamespace(total_memory=(80, 24)[each]))
    first, all_of_them = torch.device("cuda:0"), torch.device("cuda")
    assert (device_memory(first), device_memory(all_of_them)) == ((80, 70), (24, 70)), "each has as much as the smallest"
    for name, value in (("LOCAL_RANK", "3"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert own_gpu() == 1
    with pytest.raises(UserError, match="started 4 processes on a machine that shows 2 GPUs: let it start 2"):
        _child._check_processes(all_of_them, "ddp", offload=False)
    monkeypatch.delenv("LOCAL_RANK")
    _child._check_alone("auto")  # one process, as a configuration of accelerate may have it: with one GPU
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_launcher_that_is_not_there_is_named_before_anything_runs() -> None:
    with pytest.raises(UserError, match="launch: there is no program nowhere-launch"):
        SFT(launch="nowhere-launch --two").check()


def test_a_checkpoint_is_made_by_the_clock_where_steps_alone_would_make_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(tmp_path / "start", pad="eos", context=256)
    training = replace(PLAIN, epochs=2, max_steps=3, save_minutes=1e-9)
    whole = replace(training, save_minutes=0.0).train(job(model, tmp_path / "whole"), Quiet())
    monkeypatch.setenv(AT, "train.checkpoint.after-manifest")
    with pytest.raises(RunFailed, match="killed"):
        training.train(job(model, tmp_path / "killed"), Quiet())
    monkeypatch.delenv(AT)
    again = Quiet()
    resumed = training.train(job(model, tmp_path / "killed"), again)
    assert again.seen[0] == ("start", 3, 1) and resumed.model.hash == whole.model.hash


@pytest.mark.parametrize("options", [("--trainer.strategy", "fsdp"), ("--trainer.strategy", "deepspeed", "--trainer.zero", "2")])
def test_how_processes_share_the_work_reaches_the_trainer_without_another_option(
    seeds_file: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    from selfalign.cli.main import main

    assert main(["check", "sft", str(seeds_file), "--model", "anything", "--encoder", "Hashed", *options]) == 2
    error = capsys.readouterr().err
    assert "strategy = " in error or "package deepspeed" in error, error
