"""What a preview, and a probe of every stage, say that a whole run will take."""

from __future__ import annotations

import json
from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest

from selfalign.cli.main import main
from selfalign.engines import Scripted
from selfalign.loop.outlay import probed
from selfalign.loop.plan import plan, plan_text
from selfalign.loop.probe import probe_lines
from selfalign.loop.progress import Quiet
from selfalign.loop.sampled import Meter, Sampled
from selfalign.recipes import isara, pretrained
from selfalign.record.journal import Journal
from selfalign.record.store import Store
from selfalign.types import Example, ModelRef, Request, Sampling
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


def test_the_answers_of_an_aim_are_counted() -> None:
    recipe = replace(RECIPE, aim_over_refusal=0.1)
    costs = plan(recipe, BASE, 60, validation=12)
    assert costs["aim_tokens"] == 8 * 12 * 40
    assert "3,840 tokens for 8 points of --aim_over_refusal on the validation seeds" in plan_text(costs)
    assert "aim_over_refusal" not in plan_text(plan(RECIPE, BASE, 60, validation=12))
    found = probed(recipe, BASE, (60, 12), [], written=0, rates={"shown": 4.0, "bare": 8.0, "answer": 20.0})
    assert (found["aim_seconds"], found["aim_seconds_at_most"]) == (8 * 12 * 20 / 8, 8 * 12 * 40 / 8)
    assert "the validation seeds at 8 points of --aim_over_refusal about 4 min (at most 8 min)" in found["text"]


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


def test_one_batch_stands_for_a_stage(tmp_path: Path) -> None:
    requests = [Request(f"r{number}", prompt="one two " * (1 + number), seed=number) for number in range(30)]
    with Store.open(tmp_path, {}) as store, Scripted(batch_size=8).open(BASE, "auto") as session:
        journal = Sampled(Journal(store, 0, session, Quiet()), meter := Meter())
        found = journal.generate("answers", requests, Sampling(max_tokens=40))
        assert [request.id for request, _ in found] == [request.id for request in requests]
        made = store.done_batches(0, "answers").values()
        assert len(made) == 8 and {completion.text for _, completion in found} == {row["text"] for row in made}
        stage, spent, whole = meter.noted[0]
        mean = sum(row["generated_tokens"] for row in made) / 8
        assert stage == "answers" and whole.about == pytest.approx(spent * 30 / 8)
        assert whole.low <= whole.about and whole.high == pytest.approx(whole.about * 40 / mean)
        assert len(journal.likelihood("scores", [Example(f"e{at}", "one", "two") for at in range(200)])) == 200
        assert meter.noted[1][2].about == pytest.approx(meter.noted[1][1] * 200 / 64)


TINY = f"{Path(__file__).parent.parent}/e2e/tiny_recipe.py:tiny"


def test_check_times_every_stage_and_leaves_nothing(
    seeds_file: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (held_out := tmp_path / "asked.jsonl").write_text('{"prompt": "Where is it?"}\n{"prompt": "Why is that?"}\n')
    asked = ["check", TINY, str(seeds_file), "--model", str(model_folder), "--held_out", str(held_out), "--quiet"]
    asked += ["--guard.parts", "answered", "--rounds", "3", "--per_round", "8", "--train_on", "all"]
    assert main([*asked, "--probe", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["probe"]
    times = {each["stage"]: each["times"] for each in found["stages"]}
    each_round = ("candidates: prompts", "candidates: answers", "candidates: filters", "training")
    assert {times[name] for name in each_round} == {3}
    assert times["evaluation: held-out prompts, HeldOut"] == times["evaluation: guard suite, Guard"] == 4
    for key in ("seconds", "low", "high"):
        assert found["run"][key] == pytest.approx(sum(each["times"] * each[key] for each in found["stages"]))
    assert all(each["low"] <= each["seconds"] * (1 + 1e-9) <= each["high"] * (1 + 1e-9) for each in found["stages"])
    assert found["candidates"] == 24 and found["kept_of"][1] == 4, "a batch of the engine's"
    kept = found["kept_of"][0] / 4
    assert found["training"]["steps"] == [ceil(8 * (12 + round * 8 * kept) / (12 + 4 * kept)) for round in (1, 2, 3)]
    assert not any(scratch.iterdir())

    def loads(*_: object) -> None:
        raise AssertionError("the model loads")

    monkeypatch.setattr("selfalign.engines._weights.weights", loads)
    assert main(asked) == 0 and "time on this machine" not in capsys.readouterr().out
    lines = "\n".join(probe_lines(found))
    assert (
        "  training " in lines and "  the whole run " in lines and f"of 24 candidates, {found['kept_of'][0]} of 4 here" in lines
    )


def test_a_probe_ends_where_the_run_would_end(seeds_file: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["check", TINY, str(seeds_file), "--model", str(model_folder), "--quiet", "--guard.parts", "none", "--probe"]
    assert main([*asked, "--trainer.max_length", "20", "--train_seeds", "false"]) == 1
    said = capsys.readouterr()
    assert "preflight passed" in said.out and "nothing to train on: all" in said.err and "too_long" in said.err
