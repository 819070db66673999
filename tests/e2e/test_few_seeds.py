"""Fewer seeds than there shall be demonstrations: told once, before a model loads, and true."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfalign.encoders import Hashed
from selfalign.engines import Scripted
from selfalign.loop.align import align
from selfalign.loop.preflight import split_seeds
from selfalign.proposers import Instructions
from selfalign.recipe import Recipe
from selfalign.recipes import isara, self_guide, self_instruct
from selfalign.record.store import Store
from selfalign.retrievers import Uniform
from selfalign.seeds.read import read_seeds
from selfalign.trainers import NullTrainer
from selfalign.types import Example
from tests.conftest import SCRIPTED, Run
from tests.files import succeeded, write_rows

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
    assert "give fewer" not in cli("check", "isara", seeds_file, *SCRIPTED).stdout
    uncategorised = cli("check", "isara", seeds_file, *SCRIPTED, "--demonstrations", 8, "--aim", "any").stdout
    assert "give fewer" not in uncategorised  # no draft has a category to be shown examples of
    assert "give fewer" not in cli("check", "isara", seeds_file, *SCRIPTED, "--demonstrations", 100, "--rounds", 0).stdout
    options = ("--seeds", seeds_file, "--demonstrations", 100, "--engine", "Scripted", "--encoder", "Hashed", "--quiet")
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "How do I wash a carpet?"}\n{"prompt": "Who mends a clock?"}\n')
    done = cli("eval", "scripted", "--held_out", "held_out.jsonl", *options, "--out", tmp_path / "eval")
    assert done.returncode == 0 and "the seeds to show (12) give fewer" in done.stderr
    assert "12 of 100 to a held-out prompt" in done.stderr


def listed(*, human: int) -> Recipe:
    return replace(isara(demonstrations=0), proposer=Instructions(human=human, generated=1))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (isara, {"demonstrations": 9, "aim": "balanced"}),
        (isara, {"demonstrations": 9, "aim": "seeds"}),
        (isara, {"demonstrations": 15, "aim": "any"}),
        (isara, {"demonstrations": 15, "aim": "balanced", "retriever": Uniform()}),
        (self_guide, {"demonstrations": 15}),
        (self_instruct, {"human": 7, "generated": 3, "demonstrations": 9}),
        (listed, {"human": 14}),
    ],
    ids=["balanced", "seeds", "any", "uniform", "self_guide", "self_instruct", "list"],
)
def test_what_is_told_is_what_is_shown(
    make: Callable[..., Recipe], options: dict[str, Any], seeds_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in seeds_file.read_text().splitlines()]
    for row in rows[:3]:
        row["category"] = "rare"
    write_rows(seeds_file, rows)
    parts = {"engine": Scripted(window=9000), "encoder": Hashed(), "trainer": NullTrainer()}
    recipe = replace(make(**options), rounds=1, per_round=24, min_yield=0.0, validation_share=0.25, **parts)
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


def kinds(counts: dict[str, int]) -> tuple[Example, ...]:
    names = [name for name, count in counts.items() for _ in range(count)]
    return tuple(
        Example(f"s{row}", f"Prompt {row}?", f"Response {row}.", slot=row, category=name) for row, name in enumerate(names)
    )


@pytest.mark.parametrize(
    ("counts", "share", "wanted"),
    [
        ({"harmful": 34, "harmless": 30}, 0.2, {"harmful": 7, "harmless": 6}),
        ({f"kind {n}": 1 for n in range(40)}, 0.2, 8),
        ({f"kind {n}": 2 for n in range(12)}, 0.2, 6),
        ({"a": 24}, 0.2, {"a": 6}),
        ({"": 20, "a": 4}, 0.2, {"": 5, "a": 1}),
        ({"a": 12}, 0.2, {"a": 2}),
        ({"a": 40, "b": 40}, 0.0, {}),
    ],
)
def test_validation_has_six_seeds_wherever_there_are_enough(counts: dict[str, int], share: float, wanted: Any) -> None:
    shown, validation = split_seeds(kinds(counts), share, seed=0)
    taken = Counter(example.category for example in validation)
    assert (taken if isinstance(wanted, dict) else sum(taken.values())) == wanted
    assert len(shown) + len(validation) == sum(counts.values())
    if max(counts.values()) > 1:
        assert {example.category for example in shown} == set(counts), "every kind keeps a seed to show"


def test_a_round_that_nothing_chose_is_not_called_the_best_one(cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    run = ("run", "isara", seeds_file, *SCRIPTED[:-2], "--rounds", 1, "--per_round", 4, "--min_yield", 0, "--quiet")
    trained = ("--trainer", "NullTrainer")  # with the scripted engine that counts as training
    few = cli(*run, *trained, "--out", tmp_path / "few").stdout
    assert "the newest round is shipped unchecked: 2 validation seeds, and 6 are needed" in " ".join(few.split())
    assert "newest round: 1, model" in few and "best round" not in few
    seeds_file.write_text(seeds_file.read_text() + seeds_file.read_text().replace("old house", "new barn"))
    enough = cli(*run, *trained, "--out", tmp_path / "enough").stdout
    assert "unchecked" not in enough and "best round: " in enough


@pytest.mark.parametrize("poor", [True, False])
def test_poor_seeds_are_named_as_the_cause_of_an_early_low_yield(poor: bool, cli: Run, seeds_file: Path, tmp_path: Path) -> None:
    if poor:
        rows = [json.loads(line) for line in seeds_file.read_text(encoding="utf-8").splitlines()]
        seeds_file.write_text("".join(json.dumps({**row, "response": "Yes, do."}) + "\n" for row in rows), encoding="utf-8")
    small = ("--per_round", 8, "--min_yield", 1.0, "--quiet", "--out", tmp_path / "out", "--json")
    done = succeeded(cli("run", "isara_paper", seeds_file, *SCRIPTED, *small))
    why = json.loads(done.stdout)["stopped_because"]
    assert why.startswith("round 1 kept ") and "below min_yield = 1.0" in why
    told = "the seeds themselves break the rules: filters.length would drop 12 of the 12 seeds (100%) as response_short"
    assert (told in why) is poor


@pytest.mark.parametrize(("kinds", "shown"), [("", "the 2 nearest seeds,"), ("aab", "the 1 nearest seed of its own category,")])
def test_a_preview_says_how_many_seeds_it_can_show(cli: Run, tmp_path: Path, kinds: str, shown: str) -> None:
    """Of three each is shown the two others, and not five."""
    asked = ("Where is order 11?", "Can I return shoes?", "Do you ship to Peru?")
    rows = [{"prompt": text, "response": "Yes, in three days.", "category": kinds[at : at + 1]} for at, text in enumerate(asked)]
    done = cli("preview", "isara", write_rows(tmp_path / "three.jsonl", rows), *SCRIPTED)
    assert done.returncode == 0 and f"shown {shown}" in " ".join(done.stdout.split())
