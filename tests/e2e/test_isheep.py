"""I-SHEEP and its neighbours through the front door: conservation, kill and resume, what is trained on."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SCRIPTED, Refused, Run
from tests.e2e.test_kill import hits
from tests.files import read_rows, succeeded, write_rows

SMALL = ("--rounds", 2, "--per_round", 24, "--min_yield", 0, "--engine.batch_size", 4, "--quiet")
BY_CHANCE = ("--judge.method", "expected", "--score_above", 1)
"""A judge without a model knows no numbers: with these options its scores let everything pass."""
TRUSTING = ("--ignore_calibration", "true")
"""Nor can it tell a seed from a spoiled one, which would end the run."""
RIGHT = ("--reward.marker", ":")
"""Some answers of the scripted engine end, behind a colon, as the seeds in `tasks_file` do."""


@pytest.fixture
def tasks_file(tmp_path: Path) -> Path:
    """Sixteen tasks in Self-Instruct's format, every other one with an input, every fourth one of classification."""
    verbs, things = ("Describe", "Sort", "Compare", "Rewrite"), ("a train timetable", "a shopping list", "a poem", "a letter")
    rows = []
    for number, (verb, thing) in enumerate((verb, thing) for verb in verbs for thing in things):
        instruction, label = f"{verb} {thing} in a way that number {number} understands.", number % 4 == 3
        # As the scripted engine ends some of its answers: behind a colon the first six words of the prompt.
        output = "fine" if label else f"It is number {number}: {' '.join(instruction.split()[:6])}."
        instance = {"input": f"{thing} of day {number}" if number % 2 else "", "output": output}
        task = {"id": f"task-{number}", "instruction": instruction, "instances": [instance], "is_classification": label}
        rows.append({**task, "name": f"{verb} {thing}"})
    path = tmp_path / "tasks.jsonl"
    return write_rows(path, rows)


@pytest.fixture
def one_task_file(tmp_path: Path) -> Path:
    """Twelve examples of one task, in lengths and words as the scripted engine writes them."""
    instances = [
        {"input": f"thing {n} of a dozen" + " and more" * n, "output": "I can't say it in a word." + " So be it." * n}
        for n in range(12)
    ]
    path = tmp_path / "one.jsonl"
    path.write_text(
        json.dumps({"id": "t", "instruction": "Say how to mend it.", "instances": instances}) + "\n", encoding="utf-8"
    )
    return path


def status(cli: Run, out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("status", out, "--json").stdout)
    return found


def content(out: Path) -> dict[str, bytes]:
    """What a run made, byte by byte, with every sample in one place."""
    files = [path for pattern in ("round-*/*.json*", "round-*/model/*") for path in sorted(out.glob(pattern))]
    assert {"kept.jsonl", "dropped.jsonl", "metrics.json", "config.json"} <= {path.name for path in files}
    ids = [row["id"] for path in files if path.suffix == ".jsonl" for row in read_rows(path)]
    assert len(set(ids)) == len(ids)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def run(cli: Run, recipe: str, seeds: Path, out: Path, *options: object, **env: str) -> Any:
    return cli("run", recipe, seeds, *SCRIPTED, *SMALL, *options, "--out", out, **env)


def test_isheep_end_to_end(cli: Run, tasks_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    succeeded(run(cli, "isheep", tasks_file, out, *TRUSTING))
    state = status(cli, out)
    assert state["state"] == "done" and len(state["rounds"]) == 3
    for row in state["rounds"][1:]:
        assert row["candidates"] == 24 == row["kept"] + sum(row["dropped"].values())
        assert row["kept"] > 0
        assert row["metrics"]["diversity_saturation_judge_quality"]["value"] < 1
    kept, dropped = read_rows(out / "round-01" / "kept.jsonl"), read_rows(out / "round-01" / "dropped.jsonl")
    assert all(set(row["scores"]) == {"judge_quality", "judge_following"} for row in kept)
    assert all(drop["rule"] and drop["evidence"] for drop in dropped)
    assert {"low_judge_quality", "low_judge_following"} < {drop["rule"] for drop in dropped}
    assert all(not drop["scores"] for drop in dropped if not drop["rule"].startswith("low_")), "no score was paid for these"
    for drop in dropped:
        if drop["rule"] == "empty_prompt":
            assert "task" in drop["evidence"] and drop["prompt"] == ""


@pytest.mark.parametrize(
    ("select", "scores", "rules"),
    [
        ("perplexity", {"perplexity", "perplexity_pair"}, {"high_perplexity", "high_perplexity_pair"}),
        ("density", {"density", "density_cluster"}, {"same_cluster"}),
        ("density_perplexity", {"density", "density_cluster", "perplexity"}, {"same_cluster"}),
        ("nothing", set(), set()),
    ],
)
def test_isheep_selects_without_a_judge(
    cli: Run, tasks_file: Path, tmp_path: Path, select: str, scores: set[str], rules: set[str]
) -> None:
    out = tmp_path / "out"
    succeeded(run(cli, "isheep", tasks_file, out, "--select", select, "--rounds", 1))
    (row,) = status(cli, out)["rounds"][1:]
    assert row["candidates"] == 24 == row["kept"] + sum(row["dropped"].values()) and row["kept"] > 0
    assert "judge_quality_auc" not in row["metrics"], "nothing was to be calibrated"
    kept, dropped = read_rows(out / "round-01" / "kept.jsonl"), read_rows(out / "round-01" / "dropped.jsonl")
    assert all(set(each["scores"]) == scores for each in kept)
    by_score = [each for each in dropped if each["scores"]]
    assert {each["rule"] for each in by_score} == rules and all(each["evidence"] for each in by_score)
    if "same_cluster" in rules:
        clusters = [each["scores"]["density_cluster"] for each in (*kept, *by_score)]
        assert len(kept) == len(set(clusters)), "one of each cluster"


def test_rest_with_a_reward_model(cli: Run, reward_model: Path, tmp_path: Path) -> None:
    """The tiny reward model likes answers that end in good; the scripted engine's end in another way, and score below."""
    seeds, out = tmp_path / "seeds.jsonl", tmp_path / "out"
    rows = [{"prompt": f"prompt {number}", "response": "This is good"} for number in range(8)]
    write_rows(seeds, rows)
    reward = ("--reward", "Reward", "--reward.model", reward_model, "--reward.device", "cpu", "--ignore_calibration", "true")
    succeeded(run(cli, "rest", seeds, out, *reward, "--rounds", 1, "--filters.rising_threshold.first", -0.7))
    (row,) = status(cli, out)["rounds"][1:]
    assert row["candidates"] == 24 == row["kept"] + sum(row["dropped"].values())
    assert row["kept"] > 0 and row["dropped"]["low_reward"] > 0
    assert row["metrics"]["calibration_reward_auc"]["value"] > 0.5
    assert all(each["scores"]["reward"] > -0.7 for each in read_rows(out / "round-01" / "kept.jsonl"))


def test_a_judge_that_knows_nothing_filters_nothing(cli: Run, tasks_file: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the same command again fails the same way
        done = run(cli, "isheep", tasks_file, tmp_path / "out")
        assert done.returncode == 1 and "cannot filter, it is" in done.stderr and "AUC 0." in done.stderr
    (before, *after) = status(cli, tmp_path / "out")["rounds"]
    assert not before["candidates"] and not any(row["candidates"] for row in after)
    assert {"calibration_judge_quality_auc", "calibration_judge_following_auc"} <= set(after[0]["metrics"])
    done = run(cli, "isheep", tasks_file, tmp_path / "out", *TRUSTING)  # as the message says
    assert done.returncode == 0, done.stderr
    assert status(cli, tmp_path / "out")["state"] == "done" and status(cli, tmp_path / "out")["rounds"][1]["candidates"] == 24


def test_isheep_accumulates_and_the_published_one_replaces(cli: Run, tasks_file: Path, tmp_path: Path) -> None:
    trained = {}
    for recipe, options in (("isheep", TRUSTING), ("isheep_paper", BY_CHANCE)):
        out = tmp_path / recipe
        succeeded(run(cli, recipe, tasks_file, out, *options))
        seed = next(row for row in read_rows(tasks_file) if shown(cli, out, row["id"])["verdict"] == "seed")["id"]
        sample = read_rows(out / "round-01" / "kept.jsonl")[0]["id"]
        trained[recipe] = [[model["round"] for model in shown(cli, out, id)["trained_into"]] for id in (seed, sample)]
    assert trained == {"isheep": [[1, 2], [1, 2]], "isheep_paper": [[], [1]]}


def shown(cli: Run, out: Path, id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("show", out, id, "--json").stdout)
    return found


def test_the_passport_shows_the_list_that_a_task_was_read_from(cli: Run, tasks_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(cli, "isheep", tasks_file, out, *TRUSTING, "--rounds", 1).returncode == 0
    for row in read_rows(out / "round-01" / "kept.jsonl"):
        told = shown(cli, out, row["id"])
        assert len(told["prompt_demonstrations"]) == 5
        assert told["prompt_texts"]["propose"].endswith("###\n6. Instruction:")
        assert set(told["prompt_texts"]) == {"propose", "respond"} and row["prompt"] in told["prompt_texts"]["respond"]
        for example in told["prompt_demonstrations"]:
            assert example["prompt"].partition("\n\n")[0] in told["prompt_texts"]["propose"]


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("isheep", TRUSTING),
        ("isheep_paper", BY_CHANCE),
        ("self_instruct", ()),
        ("self_guide", ("--pair_filters.length_range.deviations", 9)),
        ("rest", (*TRUSTING, "--filters.rising_threshold.first", 5.3, "--filters.rising_threshold.step", 0.1)),
        ("rest_em", RIGHT),
        ("dpo", ()),
    ],
)
def test_every_other_recipe_goes_on_after_a_kill(
    cli: Run, tasks_file: Path, one_task_file: Path, tmp_path: Path, recipe: str, options: tuple[object, ...]
) -> None:
    seeds = one_task_file if recipe == "self_guide" else tasks_file
    whole = (recipe, seeds, *SCRIPTED, *SMALL, *options)
    points = Counter(hits(tmp_path, *whole, "--out", tmp_path / "whole"))
    wanted = content(tmp_path / "whole")
    state = status(cli, tmp_path / "whole")
    assert [row["candidates"] for row in state["rounds"][1:]] == [24, 24]
    assert all(row["kept"] and row["candidates"] == row["kept"] + sum(row["dropped"].values()) for row in state["rounds"][1:])
    again = tmp_path / "again"
    killed = run(
        cli, recipe, seeds, again, *options, SELFALIGN_FAULT_AT=f"batch.after-commit:{points['batch.after-commit'] // 2}"
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert run(cli, recipe, seeds, again, *options).returncode == 0
    assert content(again) == wanted


def test_a_label_that_the_proposer_wrote_is_kept_as_the_response(cli: Run, tasks_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(cli, "self_instruct", tasks_file, out).returncode == 0
    kept = [row for number in (1, 2) for row in read_rows(out / f"round-0{number}" / "kept.jsonl")]
    labelled = [row for row in kept if row["metadata"].get("is_classification") == "true"]
    assert labelled and len(labelled) < len(kept)
    for row in kept:
        texts = shown(cli, out, row["id"])["prompt_texts"]
        assert ("respond" in texts) == ("input" in texts) == (row not in labelled)
        assert ("label" in texts) == (row in labelled) == (row["response"] in ("yes", "no"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("isheep", "--keep", "2"), ("Percentile", "keep", "2")),
        (("isheep", "--judge.aspect", "taste"), ("judge.aspect", "taste")),
        (("isheep", "--select", "nothing", "--score_above", "8"), ("score_above = 8", "select = nothing")),
        (("isheep_paper", "--filters.at_most.count", "0"), ("AtMost", "count = 0")),
        (("self_instruct", "--human", "0"), ("SelfInstruct", "human = 0")),
        (("rest", "--samples", "0"), ("Repeated", "samples = 0")),
        (("rest", "--reward", "ExactAnwser"), ("reward", "ExactAnwser", "ExactAnswer")),
        (("rest", "--reward", "Reward"), ("Reward cannot do without model", "give --reward.model")),
        (("self_guide", "--pair_filters.length_range.deviations", "0"), ("LengthRange", "deviations = 0")),
    ],
)
def test_bad_options_get_one_line(refused: Refused, tasks_file: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    recipe, *options = arguments
    line = refused("run", recipe, tasks_file, *SCRIPTED, *options, "--out", "o")
    assert all(word in line for word in words), line


def test_a_judge_is_tried_on_as_many_seeds_as_asked(cli: Run, tasks_file: Path, tmp_path: Path) -> None:
    succeeded(run(cli, "isheep", tasks_file, tmp_path / "out", *TRUSTING, "--judge.calibrate_on", 4, "--rounds", 1))
    metrics = status(cli, tmp_path / "out")["rounds"][1]["metrics"]
    assert metrics["calibration_judge_quality_auc"]["n"] == metrics["calibration_judge_following_auc"]["n"] == 4
    refused = run(cli, "isheep", tasks_file, tmp_path / "other", "--judge.calibrate_on", 1)
    assert refused.returncode == 2 and "calibrate_on = 1" in refused.stderr
