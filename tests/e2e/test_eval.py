"""`selfalign eval` through the front door: models, rounds, demonstrations, comparisons, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import SCRIPTED, Refused, Run, command
from tests.files import result, select, succeeded, write_rows
from tests.tiny import tiny_model

ENGINE = ("--engine", "Scripted", "--encoder", "Hashed")
QUIET = ("--quiet", "--json")


@pytest.fixture
def held_file(tmp_path: Path) -> Path:
    things = [(verb, thing) for verb in ("rent", "buy", "sell") for thing in ("kayak", "radio", "lamp", "piano")]
    return write_rows(
        tmp_path / "held_out.jsonl",
        [
            {
                "prompt": f"Where can I {verb} a {thing} in this town by noon?",
                "response": f"Ask for a {thing} at the harbour office before ten.",
                "category": "harmful" if number % 2 else "harmless",
            }
            for number, (verb, thing) in enumerate(things)
        ],
    )


@pytest.fixture
def run_folder(cli: Run, seeds_file: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    options = ("--rounds", 2, "--per_round", 8, "--demonstrations", 4, "--min_yield", 0, "--quiet", "--out", out)
    succeeded(cli("run", "isara", seeds_file, *SCRIPTED, *options))
    return out


def test_a_model_alone_needs_no_seeds_and_leaves_nothing(cli: Run, held_file: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    before = sorted(tmp_path.iterdir())
    done = cli("eval", "scripted", *ENGINE, "--held_out", held_file, *QUIET, TMPDIR=str(tmp_path / "temporary"))
    told = result(done)
    assert set(told) == {"model", "other", "comparison"} and told["other"] is told["comparison"] is None
    model = told["model"]
    assert (model["name"], model["folder"], model["demonstrations"]) == ("scripted", None, 0)
    assert {"refusal", "over_refusal", "balance", "log_likelihood"} <= set(model["metrics"])
    assert [model["metrics"][name]["n"] for name in ("refusal", "balance", "log_likelihood")] == [6, 12, 12]
    for metric in model["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert sorted(tmp_path.iterdir()) == before and not list((tmp_path / "temporary").iterdir())
    table = cli("eval", "scripted", *ENGINE, "--held_out", held_file, "--quiet").stdout
    assert "log likelihood  12" in table and "95 %" in table


def test_an_evaluation_that_is_kept_is_only_read_back(cli: Run, held_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "evals" / "a"
    options = ("eval", "scripted", *ENGINE, "--held_out", held_file, "--out", out, *QUIET)
    first = result(cli(*options))
    counts = "SELECT (SELECT count(*) FROM batches), (SELECT count(*) FROM stages)"
    before = select(out, counts)
    assert result(cli(*options)) == first and select(out, counts) == before
    read = result(cli("eval", out, "--json"))["model"]
    assert read == {**first["model"], "name": str(out)}
    assert result(cli("eval", "--config", out / "run.yaml", "--json")) == first
    assert cli("report", out).returncode == 0
    done = cli("eval", out, "--seed", 3)
    assert done.returncode == 2 and "--seed changes nothing" in done.stderr
    done = cli("eval", out, *ENGINE, "--engine.gain", 1, "--held_out", held_file)
    assert done.returncode == 2 and "changes nothing" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_same_figures_as_the_run_itself(cli: Run, seeds_file: Path, held_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--rounds", 1, "--per_round", 8, "--demonstrations", 4, "--min_yield", 0, "--quiet", "--json")
    status = result(cli("run", "isara", seeds_file, *SCRIPTED, *options, "--held_out", held_file, "--out", out))
    for round in (0, 1):
        model = result(cli("eval", out, "--round", round, *ENGINE, "--held_out", held_file, *QUIET))["model"]
        there = status["rounds"][round]["metrics"]
        assert model["name"] == f"{out}, round {round}" and "balance" in model["metrics"]
        # This engine's answers follow from the hash that a round's model got when it was trained; all else is the same.
        same = model["metrics"] if round == 0 else ("log_likelihood",)
        assert {name: model["metrics"][name] for name in same} == {name: there[name] for name in same}


def test_the_best_round_against_the_base_model(cli: Run, run_folder: Path, held_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "evals"
    options = (*ENGINE, "--held_out", held_file, "--out", out, "--quiet")
    done = succeeded(cli("eval", run_folder, "--compare", "scripted", *options, "--metric", "log_likelihood", COLUMNS="80"))
    # The engine lets the log-likelihood rise by 0.1 a round, alike for every prompt.
    sentence = f"{run_folder}, round 2 is better than scripted on log likelihood: +0.2 [0.2, 0.2], p < 0.001, n = 12 prompts"
    assert sentence in done.stdout
    assert (
        max(len(line) for line in done.stdout.splitlines() if not line.startswith(("model:", "other:", "kept", str(out)[:4])))
        <= 80
    )
    told = result(cli("eval", run_folder, "--compare", "scripted", *options, "--json", "--metric", "log_likelihood"))
    assert told["comparison"]["verdict"] == "better" and not told["comparison"]["left_out"]
    row = told["comparison"]["differences"]["log_likelihood"]
    assert row["difference"] == pytest.approx(0.2) and row["p_value"] < 0.001 and row["prompts"] == 12
    values = [told[side]["metrics"]["refusal"]["value"] for side in ("model", "other")]
    assert told["comparison"]["differences"]["refusal"]["difference"] == pytest.approx(values[0] - values[1])
    # Both are evaluations of their own, which can be read and compared without any model.
    again = result(cli("eval", out / "compared-scripted", "--compare", out, "--json"))
    assert again["comparison"]["differences"]["log_likelihood"]["difference"] == pytest.approx(-0.2)
    assert again["comparison"]["metric"] == "balance"


def test_demonstrations_stand_before_every_prompt(cli: Run, seeds_file: Path, held_file: Path, tmp_path: Path) -> None:
    alone, shown = tmp_path / "alone", tmp_path / "shown"
    options = (*ENGINE, "--held_out", held_file, *QUIET)
    assert cli("eval", "scripted", *options, "--out", alone).returncode == 0
    with_seeds = (*options, "--seeds", seeds_file, "--demonstrations", 3)
    told = result(cli("eval", "scripted", *with_seeds, "--out", shown, "--compare", alone))
    assert told["model"]["demonstrations"] == 3 and told["model"]["retriever"] == "Knn"
    assert told["model"]["prompt_tokens_per_answer"] > 3 * told["other"]["prompt_tokens_per_answer"] > 0
    assert set(told["comparison"]["differences"]) == set(told["model"]["metrics"])  # the same prompts, though ids clash
    sent = "SELECT json_extract(data, '$.demonstrations') FROM outputs WHERE stage = 'held_out'"
    assert all(len(json.loads(found)) == 3 for (found,) in select(shown, sent))
    drawn = result(cli("eval", "scripted", *with_seeds, "--retriever", "random", "--out", tmp_path / "random"))
    assert drawn["model"]["retriever"] == "Uniform" and select(tmp_path / "random", sent) != select(shown, sent)


def test_an_arm_of_a_study_is_an_evaluation(cli: Run, seeds_file: Path, held_file: Path, tmp_path: Path) -> None:
    arm = tmp_path / "arm"
    run = ("run", "icl_knn", seeds_file, "--model", "scripted", *ENGINE, "--quiet", "--out", arm)
    named = write_rows(
        tmp_path / "named.jsonl", [{"id": f"test-{n}", **row} for n, row in enumerate(map(json.loads, held_file.open()))]
    )
    assert cli(*run, "--held_out", named).returncode == 0
    told = result(cli("eval", "scripted", *ENGINE, "--held_out", named, "--compare", arm, *QUIET))
    assert told["other"]["demonstrations"] == 8 and "balance" in told["comparison"]["differences"]


def test_what_a_model_was_trained_on_is_no_test(cli: Run, run_folder: Path, seeds_file: Path, tmp_path: Path) -> None:
    kept = json.loads((run_folder / "round-01/kept.jsonl").read_text(encoding="utf-8").splitlines()[0])
    asked = write_rows(
        tmp_path / "asked.jsonl", [{"prompt": kept["prompt"].upper()}, {"prompt": "Is there anything new to say?"}]
    )
    done = cli("eval", run_folder, *ENGINE, "--held_out", asked, "--quiet")
    assert done.returncode == 2 and f"the same as {kept['id']}" in done.stderr and len(done.stderr.splitlines()) == 1
    told = result(cli("eval", run_folder, *ENGINE, "--held_out", asked, *QUIET, "--allow_overlap"))
    assert told["model"]["nearly_trained_on"] == 1
    assert "log_likelihood" not in told["model"]["metrics"]  # the prompts have no reference responses
    assert result(cli("eval", run_folder, "--round", 0, *ENGINE, "--held_out", asked, *QUIET))["model"]["nearly_trained_on"] == 0
    done = cli("eval", "scripted", *ENGINE, "--held_out", seeds_file, "--seeds", seeds_file, "--demonstrations", 2)
    assert done.returncode == 2 and "asks the same as seed" in done.stderr


def test_a_table_of_questions_needs_no_held_out_prompts(cli: Run, tmp_path: Path) -> None:
    table = tmp_path / "questions.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("Question", "Best Answer", "Correct Answers", "Incorrect Answers"))
        for place in ("sea", "hills", "desert"):
            writer.writerow((f"Who lives in the {place}?", "Nobody does", f"Nobody does; The {place} is empty", "Giants; Elves"))
    told = result(cli("eval", "scripted", *ENGINE, "--truthfulness.file", table, "--compare", "other", *QUIET))
    assert {"truthfulness_diff", "mc2"} <= set(told["comparison"]["differences"])
    assert told["model"]["metrics"]["mc1"]["n"] == 3


def test_bundled_prompts_and_a_real_engine(cli: Run, model_folder: Path, held_file: Path, tmp_path: Path) -> None:
    for domain in ("safe_helpful", "in_scope"):
        assert result(cli("eval", "scripted", *ENGINE, "--held_out", domain, *QUIET))["model"]["metrics"]["balance"]["n"] == 160
    other = tiny_model(tmp_path / "other", context=2048, seed=1)
    prompts = write_rows(
        tmp_path / "prompts.jsonl", [{"prompt": f"Is {n} even?", "response": "Yes, it is." if n else ""} for n in range(4)]
    )
    told = result(cli("eval", model_folder, "--compare", other, "--held_out", prompts, *QUIET))
    assert told["model"]["metrics"]["finished"]["n"] == 4 and told["model"]["metrics"]["log_likelihood"]["n"] == 3
    assert told["model"]["hash"] != told["other"]["hash"] and told["model"]["base"] == str(model_folder)
    difference = told["comparison"]["differences"]["log_likelihood"]
    assert difference["difference"] != 0 and difference["p_value"] >= 0.25 and difference["low"] is difference["high"] is None
    sentence = told["comparison"]["sentence"]
    assert sentence.startswith("cannot tell") and sentence.endswith("fewer than 6 prompts cannot tell two models apart")


def test_interrupted_without_a_folder_it_says_that_nothing_is_kept(held_file: Path, tmp_path: Path) -> None:
    slow = ("--engine.batch_size", 1, "--engine.delay", 30)
    process = subprocess.Popen(
        command("eval", "scripted", *ENGINE, *slow, "--held_out", held_file, "--quiet"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(tmp_path.glob("selfalign-eval-*/model/run.sqlite")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "nothing is kept" in said and len(said.splitlines()) == 1
    assert not list(tmp_path.glob("selfalign-eval-*"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((), "give --held_out FILE"),
        (("--held_out", "none.jsonl"), "no such file"),
        (("--held_out", "safe_helpful", "--demonstrations", 4), "give --seeds FILE"),
        (("--held_out", "safe_helpful", "--demonstrations", -1), "at least 0"),
        (("--held_out", "safe_helpful", "--retriever", "random"), "--demonstrations C"),
        (("--seeds", "safe_helpful", "--demonstrations", 2, "--retriever", "nearest"), "knn or random"),
        (("--held_out", "safe_helpful", "--round", 1), "no run folder"),
        (("--held_out", "safe_helpful", "--metric", "balance"), "give --compare"),
        (("--held_out", "safe_helpful", "--compare", "scripted"), "itself"),
        (
            ("--held_out", "safe_helpful", "--compare", "other", "--metric", "truth"),
            "scripted has no such metric on these held-out prompts; there are refusal, over_refusal, balance, decision_auc",
        ),
        (("--heldout", "safe_helpful"), "did you mean --held_out?"),
        (("--held_out", "safe_helpful", "--truthfulnes.file", "x"), "did you mean --truthfulness.file?"),
        (("--held_out", "safe_helpful", "--truthfulness.file", "x.csv"), "x.csv: no such file"),
    ],
)
def test_wrong_options_are_named_in_one_line(refused: Refused, wrong: tuple[object, ...], said: str) -> None:
    assert said in refused("eval", "scripted", *ENGINE, *wrong, "--quiet")


def test_a_mistyped_folder_is_said_before_what_else_is_missing(refused: Refused, tmp_path: Path) -> None:
    for folder in ("runs/mine", tmp_path / "mine"):
        told = refused("eval", folder, *ENGINE)
        assert f"there is no folder {folder}" in told and "give --held_out FILE" in told
    assert "there is no folder runs/mine" in refused("eval", "smollm2-135m", "--compare", "runs/mine", *ENGINE)
    assert f"{tmp_path} is no model folder" in refused("eval", tmp_path, *ENGINE)
    for folder in ("./mine", "mine/"):
        assert refused("chat", folder) == f"selfalign: model '{folder}': there is no such folder"


def test_only_like_is_compared_with_like(cli: Run, run_folder: Path, held_file: Path, tmp_path: Path) -> None:
    out, fewer = tmp_path / "evals", write_rows(tmp_path / "fewer.jsonl", [json.loads(line) for line in held_file.open()][:6])
    assert cli("eval", "scripted", *ENGINE, "--held_out", held_file, "--out", out, "--quiet").returncode == 0
    done = cli("eval", run_folder, *ENGINE, "--held_out", fewer, "--compare", out)
    assert done.returncode == 2 and "other held-out prompts" in done.stderr
    with sqlite3.connect(out / "run.sqlite") as connection:
        (identity,) = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        used = json.loads(identity)["eval_sampling"]["max_tokens"]
    other = ("eval", run_folder, *ENGINE, "--held_out", held_file, "--compare", out, "--eval_sampling.max_tokens", 95)
    done = cli(*other)
    assert done.returncode == 2 and f"max_tokens = {used}, now 95" in done.stderr and len(done.stderr.splitlines()) == 1
    done = cli("eval", out, "--round", 1)
    assert done.returncode == 2 and "has no rounds" in done.stderr


def test_help_is_short_and_the_long_one_complete(cli: Run) -> None:
    brief, long = cli("eval", "--help"), cli("eval", "scripted", "--help")
    assert brief.returncode == long.returncode == 0
    assert len(brief.stdout.splitlines()) < 60 < len(long.stdout.splitlines())
    for option in ("--held_out", "--demonstrations", "--compare", "--round", "--truthfulness", "--engine"):
        assert option in brief.stdout and option in long.stdout
    assert "--harmfulness.classifier" in long.stdout and "(type" not in brief.stdout
    assert "\n  eval " in cli("--help").stdout
