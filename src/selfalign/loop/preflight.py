"""Preflight: all that can be known of a run's examples before a model loads, for `align`, `check`, studies and evaluations."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from math import ceil
from typing import NamedTuple

import numpy as np

from selfalign.errors import UserError
from selfalign.evaluators import Refusal
from selfalign.loop.budgets import settled, too_long
from selfalign.models.rendering import NOTES
from selfalign.proof.overlap import asked_by_both, systems_decide
from selfalign.proof.stats import LEAST, wilson
from selfalign.proof.verdicts import no_such_metric
from selfalign.protocols import Flags, Preflight, SeedUse, declared
from selfalign.recipe import Recipe
from selfalign.text import counted, in_language, language, languages, plain_name
from selfalign.types import Example, ModelRef, derive_seed


@contextmanager
def said_once() -> Iterator[None]:
    """In the block what is unusual in a model's template, and what runs have to report, is said once, however many say it."""
    said: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not (text in said or said.add(text))  # type: ignore[func-returns-value]

    speakers = NOTES, logging.getLogger("selfalign.loop.align")
    for each in speakers:
        each.addFilter(new)
    try:
        yield
    finally:
        for each in speakers:
            each.removeFilter(new)


class Prepared(NamedTuple):
    """What a run would begin with."""

    recipe: Recipe
    """As it runs on this model and these seeds (`budgets.settled`)."""
    base: ModelRef
    shown: tuple[Example, ...]
    """The seeds to show and train on."""
    validation: tuple[Example, ...]
    held_out: tuple[Example, ...]
    asked: tuple[Example, ...]
    """The held-out prompts, and those that evaluators bring."""


def prepared(recipe: Recipe, model: str, seeds: Sequence[Example], held_out: Sequence[Example]) -> Prepared:
    """Raises UserError: options, seeds or a model that cannot work, or seeds of which none could be learned; no model loads."""
    recipe.check()
    held_out = check_examples(seeds, held_out, recipe.allow_overlap, seeds_needed(recipe))
    shown, validation = split_seeds(seeds, recipe.validation_share, recipe.seed)
    check_parts(recipe, seeds, held_out, shown)
    asked = (*held_out, *check_brought(recipe, shown))
    check_prompts(recipe, seeds, asked)
    recipe, base = settled(recipe, model, seeds, held_out)
    check_aim(recipe, seeds, validation, base)
    too_long(recipe, base, shown)
    return Prepared(recipe, base, shown, validation, held_out, asked)


def split_seeds(seeds: Sequence[Example], share: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(to show and train on, held out for validation): in the categories' proportions where the seeds have some, order kept.

    At least `LEAST` are held out where that leaves twice as many to train on, for with fewer no test can tell two rounds apart (a
    share of each category alone rounds to nothing where there are many). Every category keeps a seed to show, and the turns of
    a conversation stay together: a row held out stands in the history of none that is trained on.
    """
    by_category = conversations(seeds)
    held: set[str] = set()
    sizes = {name: len(members) for name, members in by_category.items()}
    counts = _apportioned(sizes, _validation_size(sum(sizes.values()), share))
    for category, members in by_category.items():
        order = np.random.default_rng(derive_seed(seed, "validation", category)).permutation(len(members))
        held.update(example.id for i in order[: counts[category]] for example in members[i])
    return tuple(e for e in seeds if e.id not in held), tuple(e for e in seeds if e.id in held)


def conversations(seeds: Sequence[Example]) -> dict[str, list[list[Example]]]:
    """The seeds by category, each with those that are later turns of its conversation."""
    found: dict[tuple[str, str], list[Example]] = {}
    apart = systems_decide(seeds)
    for example in seeds:
        began = example.history[0][0] if example.history else example.prompt
        found.setdefault((example.system if apart else "", began), []).append(example)
    by_category: dict[str, list[list[Example]]] = {}
    for rows in found.values():
        by_category.setdefault(rows[0].category, []).append(rows)
    return by_category


def _validation_size(seeds: int, share: float) -> int:
    wanted = round(share * seeds)
    return LEAST if share > 0 and wanted < LEAST and seeds >= 3 * LEAST else wanted


def _apportioned(sizes: dict[str, int], total: int) -> dict[str, int]:
    """`total` cut into whole numbers by size, the largest remainders first; a category gives its last one only where no other has
    one to give."""
    whole = sum(sizes.values())
    given = {name: total * size // whole for name, size in sizes.items()}
    left = sorted(sizes, key=lambda name: total * sizes[name] / whole - given[name], reverse=True)  # stable: seeds' order
    for kept in (1, 0):
        while sum(given.values()) < total and (open_to := [name for name in left if given[name] < sizes[name] - kept]):
            for name in open_to[: total - sum(given.values())]:
                given[name] += 1
    return given


def seeds_needed(recipe: Recipe) -> int:
    """How many seeds a recipe cannot do without: none where it neither trains on any nor shows any."""
    return 2 if recipe.rounds or recipe.eval_retriever is not None else 0


def check_examples(
    seeds: Sequence[Example], held_out: Sequence[Example], allow_overlap: bool, needed: int
) -> tuple[Example, ...]:
    """The held-out examples, with ids that no seed has: files without ids both count from 1.

    Args:
        needed: how many seeds there must be at least (`seeds_needed`).

    Raises:
        UserError: too few seeds, an id that the run would give to a sample, a held-out prompt that is among the seeds (it
            would be trained on), unless `allow_overlap`.
    """
    if (single := sum(not seed.history for seed in seeds)) < needed:
        what, remedy = "", ""
        if single < len(seeds):
            what = " without earlier turns"
            remedy = "; add pairs that begin a conversation (greetings that are the same count once)"
        raise UserError(f"{counted(single, 'seed example')}{what}: at least {needed} are needed, 20 to 100 make sense{remedy}")
    taken = [seed.id for seed in seeds if re.fullmatch(r"r\d{2,}-\d{5,}(\.2)?|replay-\d{5,}", seed.id)]
    if taken:
        raise UserError(f"seed id {taken[0]!r} looks like the id of a generated sample; rename it")
    same = asked_by_both(held_out, seeds, apart=systems_decide(seeds))
    if same and not allow_overlap:
        more = f" ({len(same)} such examples)" if len(same) > 1 else ""
        asked, seed = same[0]
        what = f"held-out example {asked.id} asks the same as seed {seed.id}{more}: {asked.prompt[:80]!r}"
        other = "; where another system prompt makes it another question, --allow_overlap true goes on and counts them"
        raise UserError(f"{what}; take one of them out{other if seed.system != asked.system else ''}")
    if {seed.id for seed in seeds} & {example.id for example in held_out}:
        return tuple(replace(example, id=f"held-out/{example.id}") for example in held_out)
    return tuple(held_out)


def brought(evaluators: Sequence[object], seeds: Sequence[Example]) -> tuple[Example, ...]:
    """The prompts that evaluators bring, of all of them."""
    return tuple(prompt for part in evaluators for prompt in declared(part, Preflight).prompts(seeds))


def check_brought(recipe: Recipe, shown: Sequence[Example]) -> tuple[Example, ...]:
    """The prompts that the recipe's evaluators bring.

    Args:
        shown: the seeds that are shown and trained on.

    Raises:
        UserError: what is wrong with them, or one that asks the same as one of the seeds, unless `allow_overlap`.
    """
    prompts = brought(recipe.evaluators, shown)
    if (same := asked_by_both(prompts, shown, apart=systems_decide(shown))) and not recipe.allow_overlap:
        raise UserError(f"prompt {same[0][0].id} of an evaluator asks the same as seed {same[0][1].id}; take one of them out")
    return prompts


def check_prompts(recipe: Recipe, seeds: Sequence[Example], asked: Sequence[Example]) -> None:
    """
    Args:
        seeds: all of them: a validation seed's prompt would be trained on too.
        asked: what the run's models are measured on.

    Raises:
        UserError: a given or a replay prompt asks the same as one of `asked`, or a replay prompt the same as a seed, unless
            `allow_overlap`: it would be trained on, a seed's with another answer.
    """
    given = recipe.given.prompts.examples if recipe.given else ()
    replay = recipe.replay.drafts(recipe.seed) if recipe.replay else ()
    apart = systems_decide(seeds)
    for what, prompts, other, others in (
        ("given", given, "held-out example", asked),
        ("replay", replay, "held-out example", asked),
        ("replay", replay, "seed", seeds),
    ):
        if (same := asked_by_both(others, prompts, apart=apart)) and not recipe.allow_overlap:
            theirs, found = same[0]
            line = f" (line {at.removeprefix('row ')})" if (at := found.metadata.get("line")) else ""
            more = f"; {len(same)} such prompts" if len(same) > 1 else ""
            remedy = "take it out of one of the two files, or give --allow_overlap true"
            raise UserError(
                f"{what} prompt {found.id}{line} asks the same as {other} {theirs.id}: {found.prompt[:80]!r}{more}; {remedy}"
            )


def trained_and_validated(recipe: Recipe, shown: Sequence[Example], validation: Sequence[Example]) -> str:
    """That given prompts are the validation seeds', so that a round drops them (`steps.make_round`); "" where none is."""
    apart = systems_decide((*shown, *validation))
    same = asked_by_both(validation, recipe.given.prompts.examples, apart=apart) if recipe.given else []
    if not same:
        return ""
    asks = "asks" if len(same) == 1 else "ask"
    what = f"{counted(len(same), 'given prompt')}, such as {same[0][1].id}, {asks} the same as validation seeds ({same[0][0].id})"
    return f"{what}: rounds drop them, as they would blur the choice of the round; take the seeds' prompts out"


def check_aim(recipe: Recipe, seeds: Sequence[Example], validation: Sequence[Example], base: ModelRef) -> None:
    """Raises UserError: `aim_over_refusal` on validation seeds that cannot tell of any rate, or where nothing is trained."""
    if (aim := recipe.aim_over_refusal) is None or not recipe.rounds:
        return
    judge, wrong = next((part for part in recipe.evaluators if isinstance(part, Refusal)), None), ""
    if not 0.0 < aim < 1.0:
        wrong = "it is a share between 0 and 1"
    elif declared(recipe.trainer, Flags).pretends:
        wrong = "nothing is trained, so there is no curve to choose a point on"
    elif judge is None:
        wrong = "the recipe's evaluators have no Refusal, which measures it"
    elif not validation:
        wrong = "the point is chosen on validation seeds, and there are none; give --validation_share 0.2"
    elif base.adapter:
        wrong = f"{base.base} has an adapter already, and between that and a trained one lies no adapter; merge it first"
    elif why := judge.unjudged(seeds, validation):
        wrong = f"nobody can measure it on the {counted(len(validation), 'validation seed')}: {why}"
    if wrong:
        raise UserError(f"aim_over_refusal = {aim:g}: {wrong}")


def aim_warning(recipe: Recipe, validation: Sequence[Example]) -> str:
    """That the validation seeds cannot tell a rate as small as the aim from a larger one; "" where they can, or nothing is aimed
    at. With n prompts to answer the smallest rate but none is 1/n."""
    judge = next((part for part in recipe.evaluators if isinstance(part, Refusal)), None)
    if (aim := recipe.aim_over_refusal) is None or not recipe.rounds or judge is None:
        return ""
    count = len(judge.sides(validation)[1])
    if count * aim >= 1:
        return ""
    return (
        f"aim_over_refusal = {aim:g}: with {counted(count, 'validation seed')} to answer the rate goes in steps of"
        f" {1 / count:.0%}, so that none refused is all that counts as at most {aim:.0%}, and leaves up to"
        f" {wilson(0, count)[2]:.0%} open (95 %, Wilson); {ceil(1 / aim)} of them are the least that tell: more seeds,"
        " or a larger --validation_share"
    )


def check_parts(recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example], shown: Sequence[Example]) -> None:
    """Raises UserError: examples that an evaluator, a filter or the proposer, which has those `shown` alone, cannot work with."""
    for part in (*recipe.evaluators, *(part for _, part in recipe.named_filters())):
        declared(part, Preflight).check_examples(seeds, held_out)
    if not recipe.rounds * recipe.per_round:
        return
    for examples in (seeds, shown):  # what none of them has is said first
        declared(recipe.proposer, Preflight).check_examples(examples, held_out)
    kinds = Counter(seed.category for seed in shown if not seed.history)
    again = recipe.given is None and getattr(recipe.proposer, "share", 0) == 1  # seeds' prompts alone
    own = again and getattr(recipe.retriever, "by_category", False)
    if recipe.shown_to == "teacher" and own and "" not in kinds and max(kinds.values(), default=2) < 2:
        what = f"each of the {counted(len(kinds), 'seed')} to show has a category of its own"
        raise UserError(f"{what}: beside its own prompt a teacher is shown none; give two seeds of a category, or name none")


def strange_prompts(recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example]) -> list[str]:
    """What held-out and given prompts have that the seeds have not, a sentence each; "" where there is nothing to say."""
    given = recipe.given.prompts.examples if recipe.given else ()
    found = [_other_language(seeds, examples, what) for what, examples in (("held-out", held_out), ("given", given))]
    return [_other_systems(seeds, held_out), _strange_categories(seeds, held_out), *found]


def _other_systems(seeds: Sequence[Example], held_out: Sequence[Example]) -> str:
    """How many held-out examples ask what a seed asks, and are taken for other questions."""
    if not systems_decide(seeds):
        return ""
    count = len(asked_by_both(held_out, seeds, apart=False)) - len(asked_by_both(held_out, seeds, apart=True))
    what = f"{counted(count, 'held-out example')} {'asks' if count == 1 else 'ask'} what a seed asks under another system prompt"
    why = "taken for other questions, as among the seeds such prompts have answers of their own"
    return f"{what}: {why}" if count else ""


def _other_language(seeds: Sequence[Example], examples: Sequence[Example], what: str) -> str:
    """That most prompts or answers are in no language of the seeds', as those of a file for other seeds are."""
    for side in ("prompt", "response"):
        texts = [text for each in examples if (text := getattr(each, side))]
        known = languages([getattr(seed, side) for seed in seeds]) if texts else {}
        other = [text for text in texts if in_language(text, known) is False]
        if 2 * len(other) > len(texts):
            spoken = ", ".join(languages(other)) or language(other[0])
            ours = f"{len(other)} of {counted(len(texts), f'{what} {side}')} are in another language ({spoken})"
            return f"{ours} than the seeds' {side}s ({', '.join(known)}); if that is not meant, give others"
    return ""


def _strange_categories(seeds: Sequence[Example], held_out: Sequence[Example]) -> str:
    """Which categories of held-out prompts no seed has, though the seeds have one that differs in its spelling alone."""
    sizes = Counter(seed.category for seed in seeds if seed.category)
    taught = {plain_name(name): name for name in sorted(sizes, key=lambda name: (sizes[name], name))}  # of several the commonest
    strange = sorted({example.category for example in held_out} - {seed.category for seed in seeds})
    alike = [(one, taught[plain_name(one)]) for one in strange if plain_name(one) in taught]
    said = ", ".join(f"{one!r} where the seeds have {other!r}" for one, other in alike[:3])
    return f"held-out prompts have the category {said}: to a run these are two; write one of them" if alike else ""


def fewer_than_asked(recipe: Recipe, seeds: Sequence[Example]) -> str:
    """Which prompts of round 1 are shown fewer examples than asked for, because the seeds to show are fewer; "" for none.

    No error: the published recipes bring the numbers of their papers, which small files of seeds cannot fill.
    """
    single = [seed for seed in seeds if not seed.history]
    generating = recipe.rounds * recipe.per_round > 0
    aims = set(declared(recipe.proposer, SeedUse).aims(single, recipe.per_round)) if generating else set()
    making = [("a new prompt", recipe.proposer, aims), ("an answer", recipe.retriever, aims)] if generating else []
    counts = [
        (what, *declared(part, SeedUse).shown(single, kinds))
        for what, part, kinds in (*making, ("a held-out prompt", recipe.eval_retriever, {""}))
    ]
    short = [f"{shown} of {asked} to {what}" for what, asked, shown in counts if shown < asked]
    remedy = "give more seeds, or ask for fewer"
    return f"the seeds to show ({len(single)}) give fewer examples than asked for: {', '.join(short)}; {remedy}" if short else ""


def uneven_categories(seeds: Sequence[Example], validation: Sequence[Example]) -> str:
    """Which category is so small beside the largest (an eighth, our own choice) that the validation seeds cannot tell of it; ""
    for none. Many small categories are no kinds apart but topics, so two to four are looked at."""
    sizes, held = (Counter(each.category for each in examples if each.category) for examples in (seeds, validation))
    small = [name for name, size in sizes.items() if 8 * size <= max(sizes.values()) and held[name] < LEAST]
    if not validation or not small or len(sizes) > 4:
        return ""
    said = ", ".join(f"{name!r} with {sizes[name]} of {len(seeds)} seeds has {held[name]}" for name in small)
    return (
        f"of the {counted(len(validation), 'validation seed')} the category {said}: the round is chosen by the others, and what"
        f" is lost there shows in no figure; give more such seeds, or --held_out with at least {LEAST} of them"
    )


def unknown_metric(metric: str, evaluators: Sequence[object], held_out: Sequence[Example]) -> str:
    """Why no evaluator can give a metric; "" where one can, or where one does not name its metrics."""
    names: list[str] = []
    for part in evaluators:
        if (given := declared(part, Preflight).metric_names(held_out)) is None:
            return ""
        names += given
    return "" if any(fnmatchcase(metric, name) for name in names) else no_such_metric(metric, names)
