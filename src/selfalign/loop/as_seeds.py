"""Whether the model, shown other seeds, answers a seed's prompt as that seed does: where it does not, new pairs are as wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfalign.expect.checks import same_answer
from selfalign.expect.json_answers import object_or_list, other_field, shared_fields
from selfalign.expect.suggest import suggestion
from selfalign.loop import parts
from selfalign.proof.stats import wilson
from selfalign.protocols import Context, SeedUse, declared
from selfalign.recipe import Recipe
from selfalign.text import counted, normalise
from selfalign.types import Example, Pool, Request, cosines, derive_seed

PROMPTS = 24
"""Seeds whose prompts are asked."""


@dataclass(frozen=True)
class Nearest:
    """The seeds whose prompts are nearest, never one that asks the same, as many as the window has room for."""

    count: int
    own_category: bool = False

    def retrieve(self, context: Context, drafts: Sequence[Example]) -> list[parts.Shown]:
        """See `Retriever.retrieve`; the nearest first."""
        seeds = context.pool.seeds
        vectors = [context.encode([one.prompt for one in some]) for some in (drafts, seeds)]
        asked, found = [normalise(seed.prompt) for seed in seeds], list[parts.Shown]()
        for draft, row in zip(drafts, cosines(*vectors), strict=True):
            order: list[tuple[Example, float | None]] = [
                (seeds[place], float(row[place]))
                for place in np.argsort(-row, kind="stable")
                if asked[place] != normalise(draft.prompt) and (not self.own_category or seeds[place].category == draft.category)
            ]
            found.append(tuple(order[: self._room(context, draft, [seed for seed, _ in order[: self.count]])]))
        return found

    def _room(self, context: Context, draft: Example, shown: Sequence[Example]) -> int:
        """How many of them leave room for an answer."""
        request = Request(draft.id, tuple(shown), draft.prompt, history=draft.history, system=draft.system)
        fitted = context.session.fit(request, context.eval_sampling.max_tokens)
        return len(fitted.demonstrations) if fitted else 0


def some_of(seeds: Sequence[Example], most: int, seed: int) -> tuple[Example, ...]:
    """At most so many, drawn from the categories alike as far as these reach, in the seeds' order."""
    order = np.random.default_rng(derive_seed(seed, "preview")).permutation(len(seeds))
    met: dict[str, int] = {}
    turns = []  # each seed's turn within its category: the first ones of all categories come before the second ones
    for place in order.tolist():
        turns.append((met.setdefault(seeds[place].category, 0), place))
        met[seeds[place].category] += 1
    chosen = sorted(place for _, place in sorted(turns, key=lambda turn: turn[0])[:most])
    return tuple(seeds[place] for place in chosen)


def by_category(recipe: Recipe, seeds: Sequence[Example]) -> bool:
    """Whether the recipe answers its own prompts behind examples of their category: that is what it can learn from then."""
    aims = declared(recipe.proposer, SeedUse).aims(seeds, PROMPTS)
    return getattr(recipe.retriever, "by_category", False) and any(aims)


def asked_again(recipe: Recipe, pool: Pool) -> tuple[Example, ...]:
    """The seeds that `wrong_as_shown` asks: none of prose, where two answers cannot be compared, or where a recipe shows none."""
    seeds = pool.single_turns().seeds
    shows = declared(recipe.retriever, SeedUse).shown(seeds, {""})[0]
    return some_of(seeds, PROMPTS, recipe.seed) if shows and suggestion([seed.response for seed in seeds]) else ()


def wrong_as_shown(recipe: Recipe, context: Context) -> str:
    """One sentence where the model, shown other seeds as the recipe shows them, answers fewer than half of the seeds' prompts
    as the seeds do (the interval's upper end is below a half); "" elsewhere.

    Only of seeds whose answers can be compared: all JSON, or all of a few labels. Our own addition: on JSON of four fields the
    bundled model, shown seeds, had 9 % right, and `isara` came to 18 where `sft` came to 25 (benchmarks/RESULTS.md).
    """
    if not (asked := asked_again(recipe, context.pool)):
        return ""
    context = replace(context, pool=(pool := context.pool.single_turns()))
    count = declared(recipe.retriever, SeedUse).shown(pool.seeds, {""})[0]
    shown = Nearest(count, by_category(recipe, pool.seeds)).retrieve(context, asked)
    requests = [
        Request(
            seed.id, tuple(one for one, _ in near), seed.prompt, derive_seed(recipe.seed, "as_seeds", seed.id), system=seed.system
        )
        for seed, near in zip(asked, shown, strict=True)
    ]
    answers = [completion.text for _, completion in context.generate("as_seeds", requests, recipe.sampling)]
    return _sentence(recipe.name, list(zip(asked, answers, strict=True)))


def _sentence(recipe: str, answered: Sequence[tuple[Example, str]]) -> str:
    right = sum(same_answer(answer, seed.response) for seed, answer in answered)
    share = wilson(right, len(answered))
    if share.high >= 0.5:
        return ""
    texts = [seed.response for seed, _ in answered]
    fields = [] if any(map(object_or_list, texts)) else [name for name in shared_fields(texts) if "." not in name]
    each = [f"{name} {sum(not other_field(text, seed.response, name) for seed, text in answered)}" for name in fields]
    by_field = f" (right by field: {', '.join(each)})" if each else ""
    return (
        f"asked the prompts of {counted(len(answered), 'seed')} and shown others, the model answers {right} as the seed does"
        f" [{100 * share.low:.0f}, {100 * share.high:.0f} %]{by_field}: what it writes for new prompts is as wrong, and"
        f" {recipe} learns it. sft learns your answers alone: compare them by --held_out FILE --expect exact"
    )
