"""A training started through a command of several processes, by the real path: what several GPUs go through."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign.errors import RunFailed, UserError
from selfalign.record.faults import AT
from selfalign.trainers import SFT
from tests.tiny import tiny_model
from tests.unit.test_sft import Quiet, job

TWO = shlex.join([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"])
ONE = shlex.join([sys.executable, "-c", "import os, sys; os.execv(sys.executable, [sys.executable, '-m', *sys.argv[2:]])"])
"""As accelerate's with a single process: nothing in the environment says that it was launched."""
PLAIN = SFT(learning_rate=1e-3, epochs=1, batch_size=4, micro_batch=1, precision="fp32", max_steps=2, save_minutes=0.0)


def test_what_the_processes_report_reaches_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, heard = tiny_model(tmp_path / "start", pad="eos", context=256), Quiet()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    alone = replace(PLAIN, launch=ONE).train(job(model, tmp_path / "alone"), Quiet())
    both = replace(PLAIN, launch=TWO).train(job(model, tmp_path / "both"), heard)
    assert both.losses == pytest.approx(list(alone.losses), rel=1e-4) and both.trained == alone.trained
    steps = [("advance", 1, f"loss {loss:.3f}") for loss in both.losses]
    assert heard.seen == [("start", 2, 0), *steps, ("finish",)]

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate's launcher sets it
    with pytest.raises(RunFailed, match=r"asks for FSDP, which is not supported: take it out; --trainer\.strategy fsdp"):
        replace(PLAIN, launch=TWO).train(job(model, tmp_path / "cut"), heard)


def test_a_configuration_that_asks_for_deepspeed_itself_is_told_the_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    said = r"asks for DEEPSPEED, which is not supported: take it out; --trainer\.strategy deepspeed cuts"
    with pytest.raises(RunFailed, match=said):  # no model is there to load
        replace(PLAIN, launch=ONE).train(job(tmp_path / "nowhere", tmp_path / "cut"), Quiet())


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
