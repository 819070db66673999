"""The published recipe through the front door: whom it shows, which questions it keeps, how every evaluator is answered."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from selfalign import recipes
from selfalign.cli.run import make_parser
from tests.conftest import Run
from tests.files import succeeded, write_rows

RECIPE = '''
from dataclasses import replace
from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.recipes import isara_paper
from selfalign.retrievers import Knn, Uniform
from selfalign.trainers import NullTrainer

QUESTIONS = ["Where do the old boats of the harbour sleep?"] * 2 + ["Is any of these seven words one?"] * 2

def written(model, request):
    """Slot 0 asks what slot 1 asks and its answer is too short; answers run past 96 words and open another turn."""
    if request.prompt is None:
        return QUESTIONS[int(request.id[-1]) % 4] + f" {request.id[:3]} ASSISTENT: and so on"
    if request.id.endswith("0"):
        return "Too short."
    return f"{request.seed} " + "word " * 148 + "end. ASSISTENT: more of it"

def paper(*, retriever: Knn | Uniform = Knn()):
    recipe = replace(isara_paper(demonstrations=4, retriever=retriever), per_round=4, engine=Scripted(replies=written))
    return replace(recipe, encoder=Hashed(), trainer=NullTrainer(), sampling=replace(recipe.sampling, max_tokens=200))
'''


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "published.py").write_text(RECIPE)
    rows = [
        {
            "prompt": f"What is the {ordinal} thing to do?",
            "response": f"Do thing {ordinal}.",
            "category": "harmful" if place % 2 else "harmless",
        }
        for place, ordinal in enumerate(("first", "second", "third", "fourth"))
    ]
    held_out = write_rows(tmp_path / "held_out.jsonl", rows)
    with (questions := tmp_path / "questions.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("Question", "Best Answer", "Correct Answers", "Incorrect Answers"))
        table.writerow(("Can pigs fly?", "No, pigs cannot fly", "No", "Yes, pigs can fly; Yes"))
        table.writerow(("What is the capital of Peru?", "Lima", "Lima; It is Lima", "Cuzco"))
    return {"held_out": held_out, "questions": questions}


def stages(folder: Path) -> set[str]:
    with sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True) as connection:
        return {name for (name,) in connection.execute("SELECT DISTINCT stage FROM outputs WHERE round = 0")}


def samples(folder: Path, round: int, what: str) -> list[dict[str, Any]]:
    file = folder / f"round-{round:02d}" / f"{what}.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_every_evaluator_is_answered_as_the_recipe_decodes(
    cli: Run, seeds_file: Path, data: dict[str, Path], reward_model: Path, tmp_path: Path
) -> None:
    out, again, file = tmp_path / "run", tmp_path / "again", tmp_path / "answers.json"
    measured = ("--truthfulness.file", data["questions"], "--harmfulness.classifier", reward_model, "--win_rate.judge", "base")
    options = ("--model", "org/scripted", "--held_out", data["held_out"], *measured, "--rounds", 1, "--quiet")
    succeeded(cli("run", "./published.py:paper", seeds_file, *options, "--out", out))
    assert {"refusal", "finished", "truthfulness_diff", "harmfulness", "win_rate"} <= set(
        json.loads(cli("status", out, "--json").stdout)["rounds"][0]["metrics"]
    )
    # An evaluator that decodes in a way of its own has a stage of its own, with a hash behind its name.
    answered = {name for name in stages(out) if not name.startswith(("held_out_likelihood", "truthfulness_mc_", "win_rate_"))}
    assert {re.sub(r"_[0-9a-f]{8}$", "_KEY", name) for name in answered} == {"held_out", "truthfulness_KEY"}
    cli("export", out, "--answers", file, "--round", 0)
    rows = json.loads(file.read_text("utf-8"))
    assert [row["instruction"] for row in rows] == [json.loads(line)["prompt"] for line in data["held_out"].open()]
    assert all(len(row["output"].split()) == 150 and row["output"].endswith("end.") for row in rows), "cut, and not at 96 tokens"
    # The same of an evaluation of the run: in its format, and decoded as it decodes.
    engine = ("--engine", "Scripted", "--encoder", "Hashed")
    succeeded(cli("eval", out, "--held_out", data["held_out"], *measured, *engine, "--out", again, "--quiet", "--json"))
    with sqlite3.connect(again / "run.sqlite") as connection:
        ((identity,),) = connection.execute("SELECT value FROM meta WHERE key = 'identity'")
    used = json.loads(identity)
    assert (used["format"], used["eval_sampling"]["max_tokens"], used["eval_sampling"]["temperature"]) == ("isara", 200, 0.0)
    assert "ASSISTENT" in used["eval_sampling"]["stop"] and {part["sampling"] for part in used["evaluators"]} == {None}


def test_an_evaluator_that_is_given_tokens_stays_greedy(
    cli: Run, seeds_file: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    options = ("--model", "org/scripted", "--held_out", data["held_out"], "--per_round", 0, "--rounds", 0, "--quiet")
    own = ("--refusal.sampling.max_tokens", 7, "--truthfulness.file", data["questions"], "--truthfulness.sampling.max_tokens", 5)
    succeeded(cli("run", "./published.py:paper", seeds_file, *options, *own, "--out", tmp_path / "run"))
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as connection:
        ((identity,),) = connection.execute("SELECT value FROM meta WHERE key = 'identity'")
    found = {part["part"].rpartition(".")[2]: part["sampling"] for part in json.loads(identity)["evaluators"]}
    assert found["HeldOut"] is None
    for name, tokens in (("Refusal", 7), ("Truthfulness", 5)):
        assert (found[name]["max_tokens"], found[name]["temperature"]) == (tokens, 0.0) and "ASSISTENT" in found[name]["stop"]


@pytest.mark.parametrize("retriever", ["Knn", "Uniform"])
def test_what_is_shown_and_what_is_kept(
    cli: Run, seeds_file: Path, data: dict[str, Path], retriever: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--model", "org/scripted", "--retriever", retriever, "--quiet")
    succeeded(cli("run", "./published.py:paper", seeds_file, *options, "--out", out))
    # Slot 1 asks what slot 0 asked, whose answer was too short: it is no duplicate. Slot 3 is one of slot 2.
    assert [row["id"] for row in samples(out, 1, "kept")] == ["r01-00001", "r01-00002"]
    assert {row["id"]: row["rule"] for row in samples(out, 1, "dropped")} == {
        "r01-00000": "response_short",
        "r01-00003": "duplicate",
    }
    for row in samples(out, 2, "kept"):
        assert row["prompt"] == row["prompt"].partition("ASSISTENT")[0].strip()
        shown = row["response_demonstrations"]
        assert [each["id"].startswith("r01-") for each in shown] == [False, False, False, True], "the seeds, then one of round 1"
        similar = [each["similarity"] for each in shown]
        assert similar == [None] * 4 if retriever == "Uniform" else similar[:3] == sorted(similar[:3], reverse=True)


@pytest.mark.parametrize("name", [name for name in recipes.__all__ if name.islower()])
def test_every_recipe_has_the_permission_that_errors_recommend(name: str) -> None:
    assert "allow_overlap" in {action.dest for action in make_parser(getattr(recipes, name), "run")._actions}
