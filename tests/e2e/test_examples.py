"""The examples run: the method on one page, on a tiny model, to an adapter that loads."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SCRIPTED, Run
from tests.files import result, succeeded

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def page() -> Any:
    spec = importlib.util.spec_from_file_location("isara_in_one_page", EXAMPLES / "isara_in_one_page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_trains_an_adapter_that_loads(page: Any, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(json.dumps({"prompt": f"What is {n}?", "response": f"It is {n}."}) + "\n" for n in range(6)))
    # A random model writes noise that ends nowhere: the filter is tried by itself below, and the loop with one that keeps half.
    monkeypatch.setattr(
        page, "write", lambda model, tokenizer, texts, tokens, temperature: [f"text {n}" for n in range(len(texts))]
    )
    monkeypatch.setattr(page, "problem", lambda prompt, response, known: "" if int(prompt[5:]) % 2 else "even")
    out = tmp_path / "adapter"
    kept = page.main([str(seeds), "--model", str(model_folder), "--out", str(out), "--candidates", "6", "--rate", "0.01"])
    assert [len(part) for part in kept] == [3, 3] and kept[0][0] == ("text 1", "text 1")
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    ids = torch.tensor([[65, 66, 67]])
    before = base(ids).logits
    after = PeftModel.from_pretrained(base, str(out))(ids).logits
    assert (after - before).abs().max() > 0.01


def test_training_teaches_an_answer_and_its_end(page: Any, model_folder: Path) -> None:
    import random

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    opened = page.chat(tokenizer, [("Ping?", "Pong.")])
    assert opened.endswith("<|im_start|>user\n") and "Pong.<|im_end|>" in opened
    page.train(model, tokenizer, [("Ping?", "Pong.")], epochs=80, rate=0.01, chance=random.Random(0))
    asked = page.chat(tokenizer, (), "Ping?")
    torch.manual_seed(0)
    assert page.write(model, tokenizer, [asked, asked], tokens=12, temperature=0.1) == ["Pong.", "Pong."]
    assert page.write(model, tokenizer, [asked], tokens=3, temperature=0.1) == [""]  # cut off: dropped
    near = page.embed(model, tokenizer, ["Ping?", "Ping?", "Something else"])
    assert near[0] @ near[1] > 0.999 > near[0] @ near[2]


def test_its_filter(page: Any) -> None:
    known, answer = ["How do I boil an egg?"], "Five minutes are enough."
    assert page.problem("Where do cats sleep at night?", answer, known) == ""
    assert page.problem("How do I boil one egg?", answer, known) == "not novel"
    assert page.problem("", answer, known) == "prompt short or unfinished"
    assert page.problem("Where do cats sleep at night?", "Here.", known) == "response short or unfinished"


@pytest.mark.parametrize("name", ["support_tone", "json_extraction", "german", "shop_scope"])
def test_the_page_of_each_domain_has_the_lines_of_check(cli: Run, name: str) -> None:
    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    asked = shlex.split(re.search(r"^selfalign check isara (.*)$", page.replace("\\\n", " "), re.MULTILINE)[1])  # type: ignore[index]
    asked = [word.replace("examples/", f"{EXAMPLES}/") for word in asked if word not in ("--model", "smollm2-135m")]
    said = succeeded(cli("check", "isara", *asked, *SCRIPTED)).stdout.splitlines()
    heads = {line.split(":")[0] for line in said}
    shown = page.partition("## What check says")[2].split("```")[1]
    assert "cost at most" in heads and not [each for each in heads if f"\n{each}:" not in shown]


@pytest.mark.parametrize("name", ["support_tone", "json_extraction", "german", "shop_scope"])
def test_the_seeds_of_each_domain_pass_every_rule(cli: Run, name: str) -> None:
    seeds = EXAMPLES / name / "seeds.jsonl"
    found = result(cli("check", "isara", seeds, "--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed", "--json"))
    assert (found["seeds"], found["validation"], found["stops"], found["rules_on_seeds"]) == (24, 6, [], [])
    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert f"examples/{name}/seeds.jsonl" in page


@pytest.mark.parametrize("path", sorted((EXAMPLES.parent / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_each_benchmark_still_imports_what_it_measures(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their own module up
    spec.loader.exec_module(module)
