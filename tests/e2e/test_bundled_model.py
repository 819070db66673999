"""The real bundled model through the whole loop, small: generation, training in a child process, a model that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.files import succeeded


@pytest.mark.timeout(1200)
def test_one_small_round_on_the_bundled_model(cli: Run, tmp_path: Path) -> None:
    from importlib.resources import files

    domain = files("selfalign") / "data" / "safe_helpful"
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(line + "\n" for line in (domain / "held_out.jsonl").read_text().splitlines()[:8]))
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(line + "\n" for line in (domain / "seeds.jsonl").read_text().splitlines()[:24]))
    out = tmp_path / "run"
    options = ("--rounds", 1, "--per_round", 8, "--min_yield", 0, "--demonstrations", 3, "--trainer.epochs", 1)
    # Eight answers of so small a model, sampled: on one processor two of them ended, on another none did.
    options = (*options, "--without", "filters.finished", "--guard.parts", "none")
    succeeded(cli("run", "isara", seeds, "--held_out", held_out, "--model", "smollm2-135m", *options, "--out", out, timeout=1100))
    status = json.loads(cli("status", out, "--json").stdout)
    before, after = (row["metrics"] for row in status["rounds"][:2])
    assert after["log_likelihood"]["value"] > before["log_likelihood"]["value"]
    assert after["validation_log_likelihood"]["value"] > before["validation_log_likelihood"]["value"]
    assert status["best_round"] == 1

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out / "round-01" / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "round-01" / "model")
    assert model.num_parameters() == 134_515_008
    assert tokenizer.chat_template
