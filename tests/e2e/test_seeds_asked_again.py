"""Recipes ask the seeds' own prompts, and new ones, under the system prompts that the seeds have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign.record.store import Store
from tests.conftest import SCRIPTED, Run
from tests.files import write_rows


@pytest.mark.parametrize("recipe", [("rest", "--reward", "ExactAnswer"), ("self_distill", "--validation_share", 0), ("dpo",)])
def test_a_seeds_system_prompt_is_asked_with_it(cli: Run, tmp_path: Path, recipe: tuple[object, ...]) -> None:
    rows = [
        {
            "id": f"s{i}",
            "system": f"You keep shop number {i}.",
            "prompt": f"And how much is item {i} of shelf {i * 7}?",
            "response": f"It costs {i} and a half.\n#### {i}",
            "category": ("dear", "cheap")[i % 2],
        }
        for i in range(12)
    ]
    seeds, out = tmp_path / "seeds.jsonl", tmp_path / "out"
    write_rows(seeds, rows)
    name, *options = recipe
    small = ("--rounds", 2, "--per_round", 12, "--min_yield", 0, "--quiet")
    done = cli("run", name, seeds, *SCRIPTED, *options, *small, "--out", out)
    assert (out / "run.sqlite").exists(), done.stderr
    with Store.read(out) as store:
        asked = [*store.kept(1), *(drop.example for drop in store.dropped(1))]
        known = {seed.id: seed for seed in (*store.seeds(), *store.validation_seeds())}
    assert len(asked) == 12
    for draft in asked:
        seed = known[draft.prompt_demonstrations[0].id]
        assert (draft.prompt, draft.system) == (seed.prompt, seed.system) and seed.system


@pytest.mark.parametrize("recipe", ["isara", "isara --prompts", "self_instruct", "self_guide"])
def test_a_new_prompt_has_a_system_prompt_of_the_seeds(cli: Run, tmp_path: Path, recipe: str) -> None:
    name, *given = recipe.split()
    several = name == "isara"
    systems = ["You sell bicycles.", "You explain the warranty."] if several else ["You sell bicycles."]
    rows = [
        {
            "system": systems[i % len(systems)],
            "prompt": f"What is to be said of item {i} of shelf {i * 7}?",
            "response": f"It costs {i} and a half, as all there.",
            **({"category": systems[i % 2][4:8]} if given else {}),
        }
        for i in range(12)
    ]
    seeds, out, asked = tmp_path / "seeds.jsonl", tmp_path / "out", tmp_path / "asked.jsonl"
    write_rows(seeds, rows)
    asked.write_text(
        "".join(json.dumps({"prompt": f"Does number {n} come with a bell, or with {n} lamps?"}) + "\n" for n in range(12))
    )
    small = ("--rounds", 1, "--per_round", 12, "--min_yield", 0, "--quiet", "--ignore_seed_rules", "true")
    done = cli("run", name, seeds, *SCRIPTED, *((*given, asked) if given else ()), *small, "--out", out)
    assert (out / "run.sqlite").exists(), done.stderr
    with Store.read(out) as store:
        drafts = [*store.kept(1), *(drop.example for drop in store.dropped(1))]
        known = {seed.id: seed.system for seed in store.seeds()}
    assert {draft.system for draft in drafts} == {*systems}
    if given:
        assert all(draft.category == draft.system[4:8] for draft in drafts)
    elif several:
        assert all(known[draft.prompt_demonstrations[-1].id] == draft.system for draft in drafts)
