"""What can be known of given and replay prompts before a model runs: how long they last, and what they are much like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from selfalign.evaluators import Refusal
from selfalign.proof.kept import on_purpose
from selfalign.proof.overlap import overlap, systems_decide
from selfalign.recipe import Recipe
from selfalign.text import counted
from selfalign.types import Example


def prompt_facts(recipe: Recipe, seeds: Sequence[Example], asked: Sequence[Example]) -> dict[str, Any]:
    """{"replay": how many, "given": …}, each where the recipe has such prompts.

    `taken` are those given prompts that the rounds take; of them some are `near` a seed, a prompt that models are measured on
    (`held_out`), or one that is taken earlier (`other`), by shared words (`proof.overlap`; no encoder is asked).

    Args:
        seeds: those to show.
    """
    replay = {"replay": recipe.replay.count} if recipe.replay else {}
    if (given := recipe.given) is None:
        return replay
    count = sum(-(-given.split(round, recipe.per_round)[0] // given.samples) for round in range(1, recipe.rounds + 1))
    taken = given.prompts.drawn(recipe.seed, "given")[:count]
    place = {prompt.id: number for number, prompt in enumerate(taken)}
    like = partial(overlap, taken, apart=systems_decide(seeds))
    alike = {hit.training for hit in like(taken) if place[hit.training] > place[hit.held_out]}
    near = {name: len({hit.training for hit in like(them)}) for name, them in (("seed", seeds), ("held_out", asked))}
    found = {
        "prompts": len(given.prompts.examples),
        "share": given.share,
        "a_round": given.split(given.from_round, recipe.per_round)[0],
        "lasts": given.lasts(recipe.per_round),
        "taken": count,
        "near": {**near, "other": len(alike)},
        "categories": dict(Counter(prompt.category for prompt in taken if prompt.category)),
        "without_category": sum(not prompt.category for prompt in taken),
        "with_history": sum(bool(prompt.history) for prompt in taken),
    }
    return {**replay, "given": found}


def prompt_warnings(recipe: Recipe, found: Mapping[str, Any], seeds: Sequence[Example]) -> Iterator[str]:
    """What is no error and may not be what was meant."""
    yield from recipe.prompt_notes
    yield replay_warning(recipe, seeds)
    if (given := recipe.given) is None:
        return
    short = (given.shortage(round, recipe.per_round) for round in range(1, recipe.rounds + 1))
    yield next(filter(None, short), "")
    known = {seed.category for seed in seeds if seed.category}
    if known and (others := {name: n for name, n in found["given"]["categories"].items() if name not in known}):
        prompts = counted(sum(others.values()), "given prompt")
        yield f"{prompts} of a category that no seed has ({', '.join(sorted(others)[:3])}): no example of it can be shown"


def declined(parts: Sequence[Any], seeds: Sequence[Example]) -> list[str]:
    """As `Refusal.declines`.

    Args:
        parts: the evaluators, or what a record says of them.
    """
    known = [each for each in parts if isinstance(each, Refusal)]
    for part in (each for each in parts if isinstance(each, Mapping) and str(each.get("part")).endswith(".Refusal")):
        harmful, harmless = (each if isinstance(each, str) else tuple(each) for each in (part["harmful"], part["harmless"]))
        known.append(Refusal(harmful, harmless))
    return (known or [Refusal()])[0].declines(seeds)


def replay_warning(recipe: Recipe, seeds: Sequence[Example]) -> str:
    """That the general prompts that come with the package teach what the seeds are to change; "" where nothing says so."""
    if recipe.replay is None or not recipe.replay.general or not (does := on_purpose(seeds, declined(recipe.evaluators, seeds))):
        return ""
    return (
        f"replay: its general prompts are in English, and answered as the base model does: a model that {does} learns the"
        " contrary there; give prompts that it may answer so by --replay_prompts FILE, or leave --replay out"
    )


def prompt_texts(found: Mapping[str, Any]) -> Iterator[str]:
    """The facts, a line for either kind."""
    if "replay" in found:
        yield f"replay: {counted(found['replay'], 'general prompt')}, answered by the base model and trained on in every round"
    if given := found.get("given"):
        near = given["near"]
        lasts = f"{given['lasts']:.1f} rounds" if given["lasts"] >= 1 else "less than one round"
        yield (
            f"given prompts: {given['prompts']}, {counted(given['a_round'], 'candidate')} of a round; they last for {lasts};"
            f" of the {given['taken']} taken, by shared words {near['seed']} much like a seed,"
            f" {near['held_out']} like a held-out prompt, {near['other']} like one another;"
            f" {given['without_category']} without a category, {given['with_history']} with earlier turns"
        )
