"""Recipes ask the seeds' own prompts, and new ones, under the system prompts that the seeds have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign.cli.main import main
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


ASKED = ("What do I owe?", "When is it due?", "Who is my contact?")


def customers(*names: str, answers: bool = True, same: bool = False) -> list[dict[str, object]]:
    """What each of them asks; `same`: answered alike, whoever asks."""
    return [
        {
            "system": f"You have the record of {name} open: {place + 7} euros, {place + 2} May, agent {place + 3}.",
            "prompt": prompt,
            **(
                {"response": f"That is {'known' if same else name.lower()}, by the record of the {ASKED.index(prompt)}."}
                if answers
                else {}
            ),
        }
        for place, name in enumerate(names)
        for prompt in ASKED
    ]


NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jo", "Kai", "Lia")


def test_what_another_customer_asks_is_another_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds, out = write_rows(tmp_path / "seeds.jsonl", customers(*NAMES)), tmp_path / "out"
    held_out = write_rows(tmp_path / "held_out.jsonl", customers("Max", "Nia"))
    prompts = write_rows(tmp_path / "prompts.jsonl", customers(*NAMES, "Sue", "Tom", "Uma", answers=False))
    small = ("--rounds", "1", "--per_round", "45", "--min_yield", "0", "--quiet", "--prompts", str(prompts))
    assert main(["run", "isara", str(seeds), *SCRIPTED, *small, "--held_out", str(held_out), "--out", str(out)]) == 0
    assert "6 held-out examples ask what a seed asks under another system prompt: taken for" in " ".join(
        capsys.readouterr().out.split()
    )
    with Store.read(out) as store:
        chosen, metrics = store.validation_seeds(), {each.name: each.value for each in store.metrics(1)}
        dropped = {(drop.example.system, drop.example.prompt) for drop in store.dropped(1) if drop.rule == "validation_seed"}
        assert len({seed.prompt for seed in chosen}) > 1 and len({seed.system for seed in chosen}) > 1
        assert dropped == {(seed.system, seed.prompt) for seed in chosen}  # not those that others ask
        assert any(each.prompt == ASKED[0] for each in store.kept(1)) and "diversity_far_from_shown" not in metrics
    assert (metrics["overlap_exact"], metrics["overlap_near"]) == (0, 0)
    assert main(["eval", str(out), "--held_out", str(held_out), *SCRIPTED[2:6], "--quiet"]) == 0
    assert main(["extend", str(out), str(write_rows(tmp_path / "more.jsonl", customers("Quin")))]) == 0
    capsys.readouterr()
    known = write_rows(tmp_path / "known.jsonl", customers("Ada"))
    assert main(["eval", str(out), "--held_out", str(known), *SCRIPTED[2:6], "--quiet"]) == 2
    assert main(["check", "isara", str(seeds), *SCRIPTED, "--held_out", str(known)]) == 2
    assert capsys.readouterr().err.count("held-out example seed-0001 asks the same as") == 2


@pytest.mark.parametrize(
    ("rows", "held_out"),
    [
        (customers(*NAMES, same=True), customers("Max", same=True)),  # one answer for all: instructions in other words
        (
            [
                *customers("Ada"),
                *customers("Ben")[:1],
                *({**row, "prompt": f"{row['prompt']} {n}"} for n, row in enumerate(customers(*NAMES))),
            ],
            customers("Max"),
        ),
    ],
)
def test_a_prompt_in_other_instructions_is_the_same_question(
    rows: list[dict[str, object]], held_out: list[dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, held = write_rows(tmp_path / "seeds.jsonl", rows), write_rows(tmp_path / "held_out.jsonl", held_out)
    assert main(["check", "isara", str(seeds), *SCRIPTED, "--held_out", str(held)]) == 2
    assert "asks the same as seed" in capsys.readouterr().err
