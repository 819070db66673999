"""What a preview says a whole run will take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.loop.outlay import probed
from selfalign.recipes import isara, pretrained
from selfalign.types import ModelRef, Sampling
from tests.conftest import SCRIPTED

BASE = ModelRef("scripted")
RECIPE = replace(isara(), rounds=2, per_round=100, sampling=Sampling(max_tokens=50), eval_sampling=Sampling(max_tokens=40))
RECIPE = replace(RECIPE, proposer=replace(RECIPE.proposer, sampling=Sampling(max_tokens=30)), evaluate="shipped")  # type: ignore[type-var]


def test_times_follow_from_the_rates_and_the_yield_from_the_samples() -> None:
    samples = [{"verdict": "kept"}, {"verdict": "kept"}, {"verdict": "dropped"}, {"verdict": "kept"}]
    found = probed(RECIPE, BASE, (60, 0), samples, written=160, rates={"shown": 4.0, "bare": 8.0, "answer": 20.0})
    assert found["candidates"] == 200 and found["kept_of"] == [3, 4]
    assert (found["generation_seconds"], found["generation_seconds_at_most"]) == (200 * 40 / 4, 200 * 80 / 4)
    assert (found["evaluation_seconds"], found["evaluation_seconds_at_most"]) == (2 * 60 * 20 / 8, 2 * 60 * 40 / 8)
    assert 50 < found["kept_low"] < 150 < found["kept_high"] <= 200
    low, high = found["kept_low"], found["kept_high"]
    said = f"200 candidates take about 33 min (at most 67 min), and 3 of 4 here were kept, so {low} to {high} of them will be"
    assert said in found["text"] and "2 evaluations of the held-out prompts about 5 min (at most 10 min)" in found["text"]
    assert "training comes on top, which `selfalign check … --probe` times too" in found["text"]


def test_what_is_not_known_is_not_said() -> None:
    nothing = probed(pretrained(), BASE, (0, 0), [], 0, {"shown": 0.0, "bare": 0.0, "answer": 0.0})
    assert nothing["text"] == "" and nothing["kept_of"] is None and nothing["generation_seconds"] is None


def test_preview_says_it(seeds_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["preview", "isara", str(seeds_file), *SCRIPTED, "--rounds", "2", "--per_round", "50", "--quiet"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    costs, kept = found["costs"], sum(each["verdict"] == "kept" for each in found["samples"])
    assert costs["candidates"] == 100 and costs["kept_of"] == [kept, 6]
    assert 0 < costs["generation_seconds"] <= costs["generation_seconds_at_most"]
    assert main(asked) == 0
    assert "a run on this machine, by this preview: 100 candidates take about" in " ".join(capsys.readouterr().out.split())
