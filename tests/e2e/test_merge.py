"""An adapter trained by a run, exported as it is and as part of full weights: both must say the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.errors import RunFailed
from selfalign.export.model import export_model
from selfalign.loop.align import align
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.types import ModelRef
from tests.e2e.tiny_recipe import tiny


@pytest.fixture(scope="module")
def run(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One round that trained a LoRA adapter; module-wide, as nothing here writes into it."""
    folder = tmp_path_factory.mktemp("adapter")
    rows = (f'{{"prompt": "What is {n} and {n}?", "response": "It is {2 * n}, I am sure."}}\n' for n in range(12))
    (folder / "seeds.jsonl").write_text("".join(rows), "utf-8")
    align(tiny(rounds=1, lora_rank=4, epochs=3), str(model_folder), read_seeds(folder / "seeds.jsonl"), folder / "run")
    return folder / "run"


def greedy(model: Any, prompt: str, folder: Path) -> str:
    """Written by the library's own decoding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt")
    text = model.generate(ids["input_ids"], max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(text[0, ids["input_ids"].shape[1] :]))


def test_adapter_and_merge_say_the_same(run: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for name, options in (("adapter", []), ("merged", ["--merge"])):
        assert main(["export", str(run), "--model", str(tmp_path / name), "--round", "1", *options]) == 0
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    with Store.read(run) as store:
        base = AutoModelForCausalLM.from_pretrained(store.model(0).base)
        prompts = [seed.prompt for seed in store.seeds()]
    plain = [greedy(base, prompt, tmp_path / "merged") for prompt in prompts]
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    texts = [greedy(merged, prompt, tmp_path / "merged") for prompt in prompts]
    assert texts == [greedy(adapted, prompt, tmp_path / "merged") for prompt in prompts] != plain


@pytest.mark.parametrize("base", ["gone", "another"])
def test_an_adapter_is_merged_into_no_other_base(
    run: Path, model_folder: Path, tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "gone" if base == "gone" else model_folder
    with (
        Store.read(run) as old,
        Store.open(tmp_path / "moved", {"engine": {"part": "selfalign.engines.hf.HF"}, "rounds": 1}) as new,
    ):
        new.add_seeds(old.seeds(), ())
        new.add_model(0, ModelRef(str(where), hash="of the files of then"))
        new.add_model(1, ModelRef(str(where), old.model(1).adapter))
    said = "is not there any more" if base == "gone" else "another one lies there than the run began with"
    for words in (["export", "--model", str(tmp_path / "merged"), "--merge"], ["eval"]):
        told = [words[0], str(tmp_path / "moved"), *words[1:], "--round", "1"]
        assert main(told) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_a_wrong_merge_is_refused_with_the_prompt_and_both_texts(
    run: Path, tmp_path: Path, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora.layer import Linear

    right = Linear.get_delta_weight  # what a merge adds; the adapter itself is not computed by it
    monkeypatch.setattr(Linear, "get_delta_weight", lambda layer, name: scale * right(layer, name))
    refused = r"to 'What is \d+ and \d+\?' \(of .*\) the adapter writes .+ and the merged model .+ \(log-prob"
    with Store.read(run) as store, pytest.raises(RunFailed, match=refused):
        export_model(store, tmp_path / "merged", 1, merge=True)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_rounding_would_change_are_written_in_full(
    run: Path, tmp_path: Path, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "narrow")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "narrow")
    with Store.read(run) as old:
        seeds, adapter = old.seeds(), old.model(1).adapter
    with Store.open(tmp_path / "other", {"name": "tiny", "format": "auto"}) as store:
        store.add_seeds(seeds, ())
        store.add_model(0, ModelRef(str(tmp_path / "narrow")))
        store.add_model(1, ModelRef(str(tmp_path / "narrow"), adapter))
        export_model(store, tmp_path / "merged", 1, merge=True)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.float32
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "float32" in r.getMessage()]
