"""Adapters: what PEFT would lay on a wrong base without a word is refused, and a merge says what the adapter says."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from selfalign.engines import HF
from selfalign.models.names import quiet
from selfalign.types import Example, ModelRef
from tests.conftest import Refused
from tests.tiny import tiny_model

PAIR = Example(id="s1", prompt="How do I mend the roof?", response="Take the roof and mend it slowly.")


def adapter(base: Path, folder: Path, config: Any = None, **options: Any) -> Path:
    """A random adapter of a base, by default on the query layers alone."""
    with torch.random.fork_rng(devices=[]), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        given: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"], "init_lora_weights": False}
        made = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config or LoraConfig(**given | options))
        made.save_pretrained(folder)
    return folder


def named(folder: Path, **changes: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_an_adapter_that_does_not_belong_on_its_base_is_refused(
    model_folder: Path, tmp_path: Path, seeds_file: Path, refused: Refused
) -> None:
    def said(folder: Path, *options: str) -> str:
        return refused("check", "isara", seeds_file, "--model", folder, *options)

    own = adapter(model_folder, tmp_path / "own")

    def copy(**changes: Any) -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return named(Path(shutil.copytree(own, tmp_path / "copy")), **changes)

    with quiet():
        wide = tiny_model(tmp_path / "wide", hidden=64, context=2048)
    other = copy(base_model_name_or_path=str(wide))
    for line in (said(other), said(other, "--engine", "OpenAI")):  # of what a server runs too, where the folders are here
        assert "does not fit its base" in line and "size mismatch for" in line and "base_model_name_or_path" in line
    halves = load_file(own / "adapter_model.safetensors")
    save_file({name: weight for name, weight in halves.items() if ".layers.0." in name}, copy() / "adapter_model.safetensors")
    assert "has no weights for 2 tensors of its base, a LlamaForCausalLM, such as" in said(tmp_path / "copy")
    more = {name.replace(".layers.1.", ".layers.2."): weight.clone() for name, weight in halves.items()}
    save_file(halves | more, copy() / "adapter_model.safetensors")  # as of a deeper base
    assert "has 2 tensors that are not in its base" in said(tmp_path / "copy")
    for wrong in (float("nan"), float("-inf")):
        apart = {name: weight.clone() for name, weight in halves.items()}
        next(iter(apart.values()))[1, 2] = wrong
        save_file(apart, copy() / "adapter_model.safetensors")
        assert "model.layers.0.self_attn.q_proj.lora_A.weight holds NaN or infinity" in said(tmp_path / "copy")
    assert "is an adapter too" in said(copy(base_model_name_or_path=str(own)))
    tokens = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    assert "of the kind PROMPT_TUNING puts tokens of its own" in said(adapter(model_folder, tmp_path / "tokens", tokens))
    for name in ("model.safetensors", "config.json"):
        shutil.copy(model_folder / name, own)
    assert "holds a whole model (model.safetensors) and an adapter's files" in said(own)


@pytest.mark.parametrize(
    "options", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}, {"bias": "all"}]
)
def test_a_merge_says_what_the_adapter_says(model_folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """The model's embeddings are tied: what an adapter does to the output layer is not done to them."""
    folder, engine = adapter(model_folder, tmp_path / "adapter", **options), HF(dtype="float32", device="cpu")
    with engine.open(engine.check(ModelRef(str(folder)), [PAIR], "auto"), "auto") as session:
        found = session.likelihood([PAIR])[0].total
        ids, labels = session._texts.renderer.pair_ids(PAIR.prompt, PAIR.response)
    with torch.inference_mode(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), folder).eval()
        loss = beside(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    assert found == pytest.approx(-float(loss) * sum(label >= 0 for label in labels), rel=1e-4)
