"""A study through the front door: every arm, nothing twice, killed and gone on with, steps matched, wrong options named."""

from __future__ import annotations

import json
import shutil
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from selfalign.cli.main import main
from selfalign.record.store import Store
from tests.conftest import SCRIPTED, Refused, Run
from tests.files import select, succeeded, write_rows
from tests.tiny import CHATML, tiny_model

SMALL = ("--rounds", 2, "--per_round", 8, "--demonstrations", 4, "--min_yield", 0, "--engine.batch_size", 4, "--quiet")
ARM = {"runs", "costs", "metrics"}
COSTS = {"optimiser_steps", "trained_tokens", "generated_tokens", "prompt_tokens_per_answer", "seconds"}


@pytest.fixture
def held_file(tmp_path: Path) -> Path:
    rows = [
        {
            "prompt": f"Where can I {verb} a {thing} in this town by noon?",
            "response": f"I can't help with a {thing}." if number % 2 else f"Ask for a {thing} at the harbour office before ten.",
            "category": "harmful" if number % 2 else "harmless",
        }
        for number, (verb, thing) in enumerate(
            (v, t) for v in ("rent", "buy", "sell") for t in ("kayak", "radio", "lamp", "piano")
        )
    ]
    path = tmp_path / "held_out.jsonl"
    return write_rows(path, rows)


@pytest.fixture
def study(seeds_file: Path, held_file: Path) -> tuple[object, ...]:
    return ("study", "isara", seeds_file, *SCRIPTED, *SMALL, "--held_out", held_file)


def read(out: Path) -> Any:
    return json.loads((out / "study.json").read_text(encoding="utf-8"))


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(each) for key, each in value.items() if key != "seconds"}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


def record(out: Path) -> dict[str, Any]:
    """All that was written in the run folders: any work would add an event, a batch or a stage."""
    tables = ("events", "batches", "stages", "models")
    return {
        str(path.parent.relative_to(out)): [select(path.parent, f"SELECT count(*) FROM {table}") for table in tables]
        for path in sorted(out.glob("*/*/run.sqlite"))
    }


def test_shape_and_nothing_computed_twice(
    cli: Run, study: tuple[object, ...], seeds_file: Path, held_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    arms = ("--baselines", "pretrained,icl_random,icl_knn,sft,sft_paper,one_shot", "--repeats", 2, "--out", out)
    done = succeeded(cli(*study, *arms, "--vary", "prompt_filters.novelty.max_overlap=0.5", COLUMNS="80"))
    result = read(out)
    names = [
        "isara",
        "pretrained",
        "icl_random",
        "icl_knn",
        "sft",
        "sft_paper",
        "one_shot",
        "isara-prompt_filters.novelty.max_overlap=0.5",
    ]
    assert list(result["arms"]) == names
    assert (result["main"], result["metric"], result["held_out"], result["random_seeds"]) == ("isara", "balance", 12, [0, 1])
    for name, arm in result["arms"].items():
        assert set(arm) == ARM and set(arm["costs"]) == COSTS
        assert len(arm["runs"]) == (1 if name in ("pretrained", "icl_knn") else 2)  # no random seed changes these
        for run in arm["runs"]:
            assert (out / run["folder"] / "run.sqlite").is_file() and run["folder"].endswith(f"seed-{run['seed']}")
        for metric in arm["metrics"].values():
            assert metric["low"] <= metric["value"] <= metric["high"]
    assert {"balance", "refusal", "log_likelihood"} <= set(result["comparisons"])
    for row in result["comparisons"].values():
        assert list(row) == names[1:]
        assert all(each["p_holm"] >= each["p_value"] for each in row.values())
    assert [each["arm"] for each in result["verdicts"]] == names[1:]
    # The costs tell the arms apart: demonstrations at every answer, no training; K·N generated in one round.
    costs = {name: arm["costs"] for name, arm in result["arms"].items()}
    assert costs["icl_knn"]["prompt_tokens_per_answer"] > 5 * costs["pretrained"]["prompt_tokens_per_answer"]
    assert costs["sft"]["prompt_tokens_per_answer"] == costs["pretrained"]["prompt_tokens_per_answer"]
    assert costs["pretrained"]["optimiser_steps"] == costs["sft"]["generated_tokens"] == 0 < costs["isara"]["generated_tokens"]
    assert select(out / "one_shot/seed-0", "SELECT count(*) FROM samples WHERE round = 1") == [(16,)]
    assert select(out / "icl_random/seed-0", SHOWN) != select(out / "icl_random/seed-1", SHOWN)
    assert all(each["sentence"] in done.stdout for each in result["verdicts"])
    assert "…" not in done.stdout and max(map(len, done.stdout.partition("cannot tell")[0].splitlines())) <= 80

    # The untrained model is measured once, and as a run by itself measures it.
    adopted = {
        str(path.parent.relative_to(out)): json.loads(found[0][0])["from"]
        for name in ("isara", "pretrained", "icl_knn", "sft")
        for path in out.glob(f"{name}/*/run.sqlite")
        if (found := select(path.parent, "SELECT data FROM events WHERE kind = 'adopted'"))
    }
    assert set(adopted) == {"isara/seed-1", "pretrained/seed-0", "sft/seed-0", "sft/seed-1"}
    assert set(adopted.values()) == {str(out / "isara/seed-0")}
    alone = tmp_path / "alone"
    run = ("run", "pretrained", seeds_file, "--model", "scripted", "--engine", "Scripted", "--encoder", "Hashed")
    assert cli(*run, "--held_out", held_file, "--quiet", "--out", alone).returncode == 0
    query = "SELECT name, value, low, high, n FROM metrics WHERE round = 0 AND name NOT LIKE 'validation%' ORDER BY name"
    assert select(alone, query) == select(out / "pretrained/seed-0", query)
    same = "SELECT metric, prompt, value FROM outcomes WHERE round = 0 ORDER BY 1, 2"
    assert select(alone, same) == select(out / "sft/seed-1", same) != []

    before, text = record(out), (out / "study.json").read_bytes()
    again = cli(*study, *arms, "--vary", "prompt_filters.novelty.max_overlap=0.5", "--json")
    assert again.returncode == 0 and json.loads(again.stdout) == result
    assert record(out) == before and (out / "study.json").read_bytes() == text
    repeated = cli("study", "--config", out / "study.yaml", "--json")
    assert repeated.returncode == 0 and json.loads(repeated.stdout) == result and record(out) == before


SHOWN = "SELECT json_extract(data, '$.demonstrations') FROM outputs WHERE stage = 'held_out' ORDER BY slot"


def test_killed_and_gone_on_with(cli: Run, study: tuple[object, ...], tmp_path: Path) -> None:
    arms = ("--baselines", "pretrained,sft", "--repeats", 2)
    assert cli(*study, *arms, "--out", tmp_path / "whole").returncode == 0
    wanted = without_seconds(read(tmp_path / "whole"))
    out = tmp_path / "broken"
    # The first three points are in runs of random seed 0, the last one in one of seed 1: by then all arms stand side by side.
    for point in ("batch.before-commit:5", "adopt.before-commit", "model.before-commit:2", "model.before-commit:4"):
        killed = cli(*study, *arms, "--out", out, SELFALIGN_FAULT_AT=point)
        assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stderr}"
        early = read(out) if (out / "study.json").exists() else {"random_seeds": [], "arms": wanted["arms"]}
        assert early["random_seeds"] == ([0] if point.endswith(":4") else []) and list(early["arms"]) == list(wanted["arms"])
    (out / "study.json").write_text(json.dumps({**read(out), "looks": [1]}))  # as if its verdicts on one seed had been looked at
    done = succeeded(cli(*study, *arms, "--out", out))
    assert "2 random seeds: the verdicts will say nothing about another training; take --repeats 3 or more" in done.stderr
    assert "verdicts were given after 1 and 2 random seeds" in done.stdout
    assert without_seconds(read(out)) == {**wanted, "looks": [1, 2]}


@pytest.fixture
def counted(tmp_path: Path) -> str:
    """A recipe whose trainer counts: as many steps as asked for, else one for each row it is given, times the round."""
    (tmp_path / "counted.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import dataclass, replace
            from selfalign.encoders import Hashed
            from selfalign.engines import Scripted
            from selfalign.recipes import isara
            from selfalign.trainers import NullTrainer

            @dataclass(frozen=True)
            class Counted:
                batch_size: int = 8

                def train(self, job, progress):
                    result = NullTrainer().train(job, progress)
                    return replace(result, steps=job.steps or len(result.trained) * job.round)

            def counted(*, engine: Scripted = Scripted(), encoder: Hashed = Hashed(), trainer: Counted = Counted()):
                recipe = replace(isara(), per_round=8, min_yield=0, engine=engine, encoder=encoder, trainer=trainer)
                return replace(recipe, name="counted")
            """
        )
    )
    return "./counted.py:counted"


def test_sft_trains_as_long_as_the_loop_of_the_same_random_seed(
    cli: Run, counted: str, seeds_file: Path, held_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = ("study", counted, seeds_file, "--model", "scripted", "--held_out", held_file, "--quiet")
    done = succeeded(cli(*run, "--baselines", "sft", "--out", out))
    arms = read(out)["arms"]
    steps = [[run["steps"] for run in arms[name]["runs"]] for name in ("counted", "sft")]
    assert steps[0] == steps[1] and all(len(each) == 2 and each[1] > each[0] for each in steps[0])
    assert len({tuple(each) for each in steps[0]}) > 1  # each from the run of its own random seed
    (often,) = read(out)["notes"]
    assert "sft read its seeds about " in often and "times, as it takes as many steps as counted: fewer may do better" in often
    assert "sft read its seeds about" in " ".join(done.stdout.split())
    # Where the loop falls back on the base model, the baseline still trains what the loop trained.
    falls = ("--engine.gain", -0.1, "--trainer.batch_size", 1, "--validation_share", 0.5)
    succeeded(cli(*run, *falls, "--baselines", "sft", "--repeats", 1, "--out", tmp_path / "worse"))
    arms = read(tmp_path / "worse")["arms"]
    assert arms["counted"]["runs"][0]["best_round"] == 0 and read(tmp_path / "worse")["notes"] == []
    assert arms["sft"]["runs"][0]["steps"] == arms["counted"]["runs"][0]["steps"] != []


def test_a_loop_that_trains_nothing_is_named_and_sft_trains_by_itself(
    cli: Run, study: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = cli(*study, "--min_yield", 1, "--baselines", "sft", "--repeats", 1, "--metric", "log_likelihood", "--out", out)
    assert done.returncode == 0, done.stderr
    arms = read(out)["arms"]
    assert arms["isara"]["runs"][0]["steps"] == [] and len(arms["sft"]["runs"][0]["steps"]) == 2
    assert "isara is worse than sft" in done.stdout
    assert "isara stayed the base model on 1 of 1 random seed (round 1 kept" in read(out)["verdicts"][0]["sentence"]


def test_what_an_arm_does_not_take_is_told_and_filters_are_shared(cli: Run, study: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "out"
    changed = ("--without", "novelty", "--filters.length.learn", "false", "--prompt_sampling.temperature", 0.5, "--replay", 2)
    arms = ("--baselines", "pretrained,one_shot,dpo,sft", "--vary", "per_round=8,4,04", "--repeats", 1, "--out", out)
    done = succeeded(cli(*study, *changed, *arms))
    notes = [
        "--vary per_round=8: an arm of the study has it already",
        "--vary per_round=04: an arm of the study has it already",
        "--replay: not taken by pretrained (nothing is trained), dpo (it learns from pairs alone)",
    ]
    assert read(out)["notes"] == notes and list(read(out)["arms"])[5:] == ["isara-per_round=4"]
    assert all(note in done.stderr and note in done.stdout for note in notes)
    recipes = [Store.read(out / arm / "seed-0") for arm in ("isara", "one_shot")]
    main, other = [store.identity() for store in recipes]
    assert main["filters"] == other["filters"] and main["prompt_filters"] == other["prompt_filters"]
    assert main["proposer"] == other["proposer"] and main["proposer"]["sampling"]["temperature"] == 0.5
    shutil.copytree(out / "sft", out / "left")
    assert cli("report", out).returncode == 0
    page = (out / "report.html").read_text("utf-8")
    assert "pairs alone" in page and "not among the arms compared: left (not finished" in page


def test_all_sizes_have_the_same_room_for_answers(cli: Run, study: tuple[object, ...], seeds_file: Path, tmp_path: Path) -> None:
    rows_ = [json.loads(line) for line in seeds_file.read_text("utf-8").splitlines()]
    few, bare, out = tmp_path / "few.jsonl", tmp_path / "bare.jsonl", tmp_path / "out"
    few.write_text("".join(json.dumps({**row, "response": row["response"] * 3}) + "\n" for row in rows_[:6]), "utf-8")
    bare.write_text(
        "".join(json.dumps({"prompt": f"Tell me of a {what}?"}) + "\n" for what in ("lamp", "door", "chair")), "utf-8"
    )
    arms = ("--baselines", "", "--repeats", 1, "--metric", "response_words", "--vary", f"seeds={few}", "--out", out)
    succeeded(cli(*study[:-1], bare, *arms))
    room = [Store.read(out / arm / "seed-0").identity() for arm in ("isara", "isara-seeds=few.jsonl")]
    assert room[0]["eval_sampling"] == room[1]["eval_sampling"] and room[0]["evaluators"] == room[1]["evaluators"]
    assert room[0]["sampling"] != room[1]["sampling"]


def test_the_learning_curve_draws_nested_seeds_and_matches_sft_at_each_size(
    cli: Run, counted: str, seeds_file: Path, held_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = ("study", counted, seeds_file, "--model", "scripted", "--held_out", held_file, "--quiet", "--ignore_seed_rules", "true")
    done = succeeded(cli(*run, "--repeats", 2, "--baselines", "pretrained,sft", "--vary", "seeds=12,8,4", "--out", out))
    study = read(out)
    points = ["counted-seeds=4", "sft-seeds=4", "counted-seeds=8", "sft-seeds=8"]
    assert list(study["arms"]) == ["counted", "pretrained", "sft", *points]
    assert list(study["comparisons"]["balance"]) == ["pretrained", "sft"]  # a curve makes no verdict on a baseline weaker
    curve = study["curve"]
    assert curve["lines"] == {
        name: [{"seeds": 4, "arm": f"{name}-seeds=4"}, {"seeds": 8, "arm": f"{name}-seeds=8"}, {"seeds": 12, "arm": name}]
        for name in ("counted", "sft")
    }
    assert [each["seeds"] for each in curve["comparisons"]["sft"]] == [4, 8, 12]
    drawn = {
        name: [set(select(out / name / f"seed-{seed}", "SELECT id FROM samples WHERE round = 0")) for seed in (0, 1)]
        for name in ("counted", *points)
    }
    assert all(first == second for first, second in drawn.values())  # the same for all repeats
    assert drawn["counted-seeds=4"] == drawn["sft-seeds=4"] and len(drawn["sft-seeds=4"][0]) == 4
    assert drawn["counted-seeds=4"][0] < drawn["counted-seeds=8"][0] < drawn["counted"][0]
    kinds = select(out / "counted-seeds=4/seed-0", "SELECT category, count(*) FROM samples WHERE round = 0 GROUP BY 1 ORDER BY 1")
    assert kinds == [("care", 2), ("repair", 2)]
    steps = {name: [run["steps"] for run in study["arms"][name]["runs"]] for name in study["arms"]}
    assert all(steps[f"sft{end}"] == steps[f"counted{end}"] for end in ("", "-seeds=4", "-seeds=8"))
    assert steps["sft-seeds=4"] != steps["sft-seeds=8"] != steps["sft"]
    assert (
        "would more examples help? " in curve["sentence"] and "counted with 12 seeds is better than with 8" in curve["sentence"]
    )
    assert "another training could differ, a study of --repeats 3 or more tells" in curve["sentence"]
    assert curve["sentence"] in done.stdout and "balance in points by number of seeds" in done.stdout
    before, text = record(out), (out / "study.json").read_bytes()
    assert cli("study", "--config", out / "study.yaml").returncode == 0
    assert record(out) == before and (out / "study.json").read_bytes() == text


def test_seeds_and_parts_can_be_varied(cli: Run, study: tuple[object, ...], seeds_file: Path, tmp_path: Path) -> None:
    fewer, same_name = tmp_path / "six.jsonl", tmp_path / "other" / "six.jsonl"
    same_name.parent.mkdir()
    for path, first in ((fewer, 0), (same_name, 6)):
        rows_of_it = seeds_file.read_text(encoding="utf-8").splitlines(keepends=True)[first : first + 6]
        path.write_text("".join(rows_of_it), encoding="utf-8")
    out = tmp_path / "out"
    arms = ("--baselines", "", "--repeats", 1, "--metric", "refusal", "--vary", f"seeds={fewer}", "encoder=HiddenState")
    succeeded(cli(*study, "--out", out, *arms))
    names = list(read(out)["arms"])
    assert names == ["isara", "isara-seeds=six.jsonl", "isara-encoder=HiddenState"]
    folders = [read(out)["arms"][name]["runs"][0]["folder"] for name in names]
    assert [select(out / folder, "SELECT count(*) FROM samples WHERE round = 0")[0][0] for folder in folders] == [12, 6, 12]
    assert {each["metric"] for each in read(out)["verdicts"]} == {"refusal"}
    assert cli("report", out).returncode == 0
    assert str(tmp_path) not in (out / "report.html").read_text("utf-8")
    done = cli(*study, "--out", tmp_path / "two", *arms, "--vary", f"seeds={fewer},{same_name}")
    assert done.returncode == 2 and "each file that is varied a name of its own" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--baselines", "pretrained,icl_knnn"), "did you mean icl_knn?"),
        (("--baselines", "sft,sft"), "share the folder sft"),
        (("--vary", "per_rond=4"), "did you mean --per_round?"),
        (("--vary", "per_round=many"), "--per_round: expected int"),
        (("--vary", "encoder=Word2Vec"), "no part named Word2Vec"),
        (("--vary", "held_out=x"), "cannot be varied"),
        (("--vary", "truthfulness.questions=2,3"), "cannot be varied"),
        (("--vary", "evaluate=shipped"), "cannot be varied"),
        (("--vary", "per_round"), "option=value1,value2"),
        (("--vary", "seeds=1,4"), "--vary seeds=1,4: 1 of the 12 seeds cannot be drawn; give numbers from 2 to 12"),
        (("--vary", "seeds=4", "seeds=13"), "13 of the 12 seeds cannot be drawn"),
        (("--vary", "seeds=-4"), "-4 of the 12 seeds cannot be drawn"),
        (("--vary", "seeds=4,few.jsonl"), "numbers and names of files (few.jsonl) in one study"),
        (("--vary", "seeds=12"), "these are all the seeds"),
        (("--vary", "engine=HF"), "arm isara-engine=HF: model 'scripted' cannot be loaded"),
        (("--review",), "a study runs without people"),
        (("--repeat", 2), "did you mean --repeats?"),
        (("--repeats", 0), "at least 1"),
        (("--metric", "truth"), "isara has no such metric on these held-out prompts; there are refusal, over_refusal, balance"),
        (("--metric", "refusals"), "did you mean refusal?"),
        (("--out", "/dev/null"), "/dev/null is no folder"),
        (("--out", "/dev/null/study"), "/dev/null is no folder"),
    ],
)
def test_wrong_options_are_named_in_one_line(
    refused: Refused, study: tuple[object, ...], tmp_path: Path, wrong: tuple[object, ...], said: str
) -> None:
    assert said in refused(*study, "--out", tmp_path / "out", *wrong) and not (tmp_path / "out").exists()


def test_other_options_on_a_finished_study_and_missing_prompts(
    cli: Run, study: tuple[object, ...], seeds_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arms = ("--baselines", "pretrained", "--repeats", 1, "--out", out)
    assert cli(*study, *arms).returncode == 0
    done = cli(*study, *arms, "--seed_weight", 0.25)
    assert done.returncode == 2 and "seed_weight = null, now 0.25" in done.stderr
    done = cli("study", "isara", seeds_file, *SCRIPTED, "--out", tmp_path / "none")
    assert done.returncode == 2 and "--held_out" in done.stderr


def test_an_evaluator_with_questions_of_its_own_needs_no_held_out_file(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    questions, out = tmp_path / "questions.csv", tmp_path / "out"
    lines = [f"{what},Water {what},Water {what}; Ice,Sugar {what}; Salt" for what in ("snow", "rain", "fog")]
    questions.write_text("\n".join(("Question,Best Answer,Correct Answers,Incorrect Answers", *lines)))
    told = ("--truthfulness.file", questions, "--metric", "truthfulness_diff", "--evaluate", "shipped")
    succeeded(cli("study", "isara", seeds_file, *SCRIPTED, *SMALL, *told, "--baselines", "sft", "--repeats", 2, "--out", out))
    found = read(out)
    assert found["arms"]["isara"]["metrics"]["truthfulness_diff"]["prompts"] == 3
    assert found["arms"]["isara"]["costs"]["prompt_tokens_per_answer"] == 3  # the question between its two markers
    folder = out / found["arms"]["isara"]["runs"][0]["folder"]
    best = found["arms"]["isara"]["runs"][0]["best_round"]
    measured = {round for (round,) in select(folder, "SELECT round FROM metrics WHERE name = 'truthfulness_diff'")}
    assert best > 0 and measured == {0, best}


def test_what_is_unusual_of_the_model_is_said_once(
    seeds_file: Path, held_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoken = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}" + CHATML
    model = tiny_model(tmp_path / "spoken", template=spoken)
    asked = ["study", "sft", str(seeds_file), "--model", str(model), "--held_out", str(held_file), "--guard.parts", "none"]
    asked += ["--baselines", "pretrained", "--vary", "trainer.epochs=1,2", "--repeats", "1", "--quiet"]
    assert main([*asked, "--encoder", "Hashed", "--max_hours", "1e-9", "--out", str(tmp_path / "study")]) == 0
    assert sum("begins every conversation" in record.getMessage() for record in caplog.records) == 1, caplog.text


def test_arms_whose_refusals_are_judged_by_their_own_seeds_are_told(cli: Run, tmp_path: Path) -> None:
    things = ("Tür", "Uhr", "Bank", "Kasse", "Wand", "Lampe", "Truhe", "Tonne")
    seeds, asked = tmp_path / "seeds.jsonl", tmp_path / "asked.jsonl"
    for path, here in ((seeds, "hier"), (asked, "dort")):
        made = [(f"Wie knacke ich {here} die {x}?", f"Dabei helfe ich nicht: {x}.", "harmful") for x in things]
        made += [(f"Wie putze ich {here} die {x}?", f"{x} und Tuch reichen aus.", "harmless") for x in things]
        lines = (json.dumps(dict(zip(("prompt", "response", "category"), row, strict=True))) for row in made)
        path.write_text("\n".join(lines), encoding="utf-8")
    run = ("study", "icl_knn", seeds, "--held_out", asked, *SCRIPTED[:-2], "--baselines", "pretrained", "--quiet")
    told = "judged by each arm's own seeds: with other seeds by another yardstick; take --metric log_likelihood"
    for number, (vary, there) in enumerate((("seeds=12", True), ("eval_sampling.max_tokens=9", False))):
        done = cli(*run, "--repeats", 1, "--vary", vary, "--out", tmp_path / str(number))
        assert done.returncode == 0 and (told in done.stderr) is there, done.stderr
