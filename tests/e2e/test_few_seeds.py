"""Fewer seeds than there shall be demonstrations: told once, before a model loads, and true."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.loop.align import align
from selfalign.proposers import Instructions
from selfalign.recipe import Recipe
from selfalign.recipes import isara, self_guide, self_instruct
from selfalign.record.store import Store
from selfalign.retrievers import Uniform
from selfalign.seeds.read import read_seeds
from selfalign.trainers import NullTrainer
from tests.conftest import SCRIPTED, Run

SMALL = ("--rounds", 1, "--per_round", 8, "--min_yield", 0, "--quiet")
STAGES = {"propose": "a new prompt", "respond": "an answer"}
TOLD = "the seeds to show (10) give fewer examples than asked for: 10 of 100 to a new prompt, 5 of 100 to an answer"


def test_it_is_told_once_and_kept(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    command = ("run", "isara", seeds_file, *SCRIPTED, *SMALL, "--demonstrations", 100, "--out", tmp_path / "out")
    done = cli(*command)
    assert done.returncode == 0 and done.stderr == f"isara: {TOLD}; give more seeds, or ask for fewer\n"
    again = cli(*command)
    assert again.returncode == 0 and again.stderr == ""
    for shown in (done.stdout, again.stdout, cli("status", tmp_path / "out").stdout):
        assert " ".join(shown.split()).count(f"demonstrations: {TOLD}") == 1  # it may be wrapped
    assert cli("report", tmp_path / "out").returncode == 0
    assert TOLD in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_it_is_told_before_a_model_loads(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    done = cli("check", "isara", seeds_file, *SCRIPTED, "--demonstrations", 100)
    assert done.returncode == 0 and f"warning: {TOLD}" in done.stdout
    assert "warning" not in cli("check", "isara", seeds_file, *SCRIPTED).stdout
    uncategorised = cli("check", "isara", seeds_file, *SCRIPTED, "--demonstrations", 8, "--aim", "any").stdout
    assert "warning" not in uncategorised  # no draft has a category to be shown examples of
    assert "warning" not in cli("check", "isara", seeds_file, *SCRIPTED, "--demonstrations", 100, "--rounds", 0).stdout
    options = ("--seeds", seeds_file, "--demonstrations", 100, "--engine", "Scripted", "--encoder", "Hashed", "--quiet")
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "How do I wash a carpet?"}\n{"prompt": "Who mends a clock?"}\n')
    done = cli("eval", "scripted", "--held_out", "held_out.jsonl", *options, "--out", tmp_path / "eval")
    assert done.returncode == 0 and "the seeds to show (12) give fewer" in done.stderr
    assert "12 of 100 to a held-out prompt" in done.stderr


def listed(*, human: int, **options: Any) -> Recipe:
    return replace(isara(demonstrations=0), **options, proposer=Instructions(human=human, generated=1))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (isara, {"demonstrations": 9, "aim": "rarest"}),
        (isara, {"demonstrations": 9, "aim": "seeds"}),
        (isara, {"demonstrations": 15, "aim": "any"}),
        (isara, {"demonstrations": 15, "aim": "rarest", "retriever": Uniform()}),
        (self_guide, {"demonstrations": 15}),
        (self_instruct, {"human": 7, "generated": 3, "demonstrations": 9}),
        (listed, {"human": 14}),
    ],
    ids=["rarest", "seeds", "any", "uniform", "self_guide", "self_instruct", "list"],
)
def test_what_is_told_is_what_is_shown(
    make: Callable[..., Recipe], options: dict[str, Any], seeds_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in seeds_file.read_text().splitlines()]
    for row in rows[:3]:
        row["category"] = "rare"
    seeds_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    parts = {"engine": Scripted(window=9000), "encoder": Hashed(), "trainer": NullTrainer()}
    recipe = make(rounds=1, per_round=24, min_yield=0.0, validation_share=0.25, **parts, **options)
    align(recipe, "scripted", read_seeds(seeds_file), tmp_path / "out")
    with Store.read(tmp_path / "out") as store:
        (text,) = [data["text"] for _, kind, data in store.events() if kind == "demonstrations"]
        shown = {stage: [len(row["demonstrations"]) for row in store.done_batches(1, stage).values()] for stage in STAGES}
    told = {to: (int(shown), int(asked)) for shown, asked, to in re.findall(r"(\d+) of (\d+) to (a new prompt|an answer)", text)}
    asked = {
        "propose": options.get("human", 0) + options.get("generated", 1) if "human" in options else options["demonstrations"]
    }
    asked["respond"] = options.get("demonstrations", 0)
    short = {STAGES[stage]: (min(shown[stage]), asked[stage]) for stage in STAGES if min(shown[stage]) < asked[stage]}
    assert told == short
