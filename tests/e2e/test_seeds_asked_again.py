"""Recipes that ask the seeds' own prompts again ask them under their own system prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign.record.store import Store
from tests.conftest import SCRIPTED, Run


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
    seeds.write_text("".join(json.dumps(row) + "\n" for row in rows))
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
