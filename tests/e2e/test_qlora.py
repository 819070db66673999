"""A whole round with an adapter on a base of four bits: killed, gone on with, and merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.errors import RunFailed
from selfalign.loop.align import align
from selfalign.record.checkpoints import read_manifest
from selfalign.record.store import Store
from selfalign.types import Example
from tests.e2e.tiny_recipe import tiny

pytest.importorskip("bitsandbytes")
SEEDS = [Example(f"seed-{n}", f"What is {n} and {n}?", f"It is {2 * n}, I am sure.") for n in range(12)]


def test_a_killed_round_ends_with_the_same_adapter_and_merges(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: Any = tiny(rounds=1).trainer
    recipe = replace(tiny(rounds=1), trainer=replace(plain, method="qlora", lora_rank=4, learning_rate=None, full_rate=1e-3))
    whole = align(recipe, str(model_folder), SEEDS, tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(RunFailed):
        patched.setenv("SELFALIGN_FAULT_AT", "train.checkpoint.after-manifest")
        align(recipe, str(model_folder), SEEDS, tmp_path / "killed")
    align(recipe, str(model_folder), SEEDS, tmp_path / "killed")
    one, other = (read_manifest(tmp_path / name / "round-01" / "model") for name in ("whole", "killed"))
    assert one["adapter_model.safetensors"] == other["adapter_model.safetensors"]
    with Store.read(whole.folder) as store:
        told = [data for _, kind, data in store.events() if kind == "trainer"]
        options = store.identity()["trainer"]
    assert [each["method"] for each in told] == ["qlora"] and "a 4-bit base" in told[0]["text"]
    assert (options["method"], options["lora_rank"], options["learning_rate"]) == ("qlora", 4, pytest.approx(1e-2))
    # The merge is into the weights as they are stored, and compared with the adapter on those.
    assert main(["export", str(whole.folder), "--model", str(tmp_path / "merged"), "--round", "1", "--merge"]) == 0
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
