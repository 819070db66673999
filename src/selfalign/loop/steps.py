"""The steps of a round, as glue over the protocols: proposing, answering, filtering that loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from selfalign.errors import RunFailed
from selfalign.protocols import Context, Filter
from selfalign.recipe import Recipe
from selfalign.types import Demonstration, Dropped, Example, FilterResult, Pool, Request, derive_seed


def make_round(recipe: Recipe, context: Context, pool: Pool) -> FilterResult:
    """Propose, retrieve, answer, score, filter: every candidate of the round, kept or dropped by a named rule.

    Second turns are candidates too, behind all others. Their filters see the whole `pool`, earlier second turns included, and
    the first turns just kept: a follow-up that asks the first question again is not novel.
    """
    first = work_out(recipe, context, recipe.proposer.propose(context, recipe.per_round))
    if not recipe.second_turns.share:
        return first
    drafts = recipe.second_turns.propose(context, first.kept, recipe.per_round)
    second = work_out(recipe, context, drafts, "respond_second_turn", pool.add(first.kept))
    return FilterResult((*first.kept, *second.kept), (*first.dropped, *second.dropped))


def work_out(
    recipe: Recipe, context: Context, drafts: Sequence[Example], stage: str = "respond", compared: Pool | None = None
) -> FilterResult:
    """What becomes of drafts; `compared` is the pool that filters see, where it is another one than the context's."""
    filtering = context if compared is None else replace(context, pool=compared)
    usable = split_empty(drafts)
    proposed = apply_filters(filtering, recipe.prompt_filters, usable.kept)
    answered = respond(recipe, context, proposed.kept, stage)
    whole = apply_filters(filtering, recipe.pair_filters, answered.kept)
    candidates: Sequence[Example] = whole.kept
    for scorer in recipe.scorers:
        candidates = scorer.score(context, candidates)
    judged = apply_filters(filtering, recipe.filters, candidates)
    dropped = (*usable.dropped, *proposed.dropped, *answered.dropped, *whole.dropped, *judged.dropped)
    conserve(f"round {context.round}", drafts, judged.kept, dropped)
    return FilterResult(judged.kept, tuple(sorted(dropped, key=lambda drop: drop.example.slot)))


def split_empty(drafts: Sequence[Example]) -> FilterResult:
    """Drafts nobody can answer: the model's window had no room for the request, or it wrote nothing."""
    kept, dropped = [], []
    for draft in drafts:
        if draft.prompt_finish == "context":
            dropped.append(Dropped(draft, "no_room", "the request does not fit the model's window, even without demonstrations"))
        elif not draft.prompt.strip():
            why = draft.metadata.get("problem", "the model wrote nothing")
            dropped.append(Dropped(draft, "empty_prompt", f"{why} (finish: {draft.prompt_finish})"))
        else:
            kept.append(draft)
    return FilterResult(tuple(kept), tuple(dropped))


def respond(recipe: Recipe, context: Context, drafts: Sequence[Example], stage: str) -> FilterResult:
    """Answer each draft, shown the demonstrations the retriever chose for it; one that brings a response keeps that."""
    waiting = [draft for draft in drafts if not draft.response]
    chosen = recipe.retriever.retrieve(context, waiting)
    requests = [
        Request(
            id=draft.id,
            demonstrations=tuple(example for example, _ in shown),
            prompt=draft.prompt,
            seed=derive_seed(context.seed, context.round, "respond", draft.slot),
            history=draft.history,
            system=draft.system,
        )
        for draft, shown in zip(waiting, chosen, strict=True)
    ]
    whole = {draft.id: draft for draft in drafts if draft.response}
    dropped = []
    results = context.generate(stage, requests, recipe.sampling)
    for draft, shown, (sent, completion) in zip(waiting, chosen, results, strict=True):
        similarity = {example.id: value for example, value in shown}
        example = replace(
            draft,
            response=completion.text,
            response_finish=completion.finish,
            response_demonstrations=tuple(Demonstration(d.id, similarity[d.id]) for d in sent.demonstrations),
        )
        if completion.finish == "context":
            dropped.append(Dropped(example, "no_room", "the prompt does not fit the model's window, even without demonstrations"))
        else:
            whole[example.id] = example
    return FilterResult(tuple(whole[draft.id] for draft in drafts if draft.id in whole), tuple(dropped))


def apply_filters(context: Context, filters: Sequence[Filter], examples: Sequence[Example]) -> FilterResult:
    """One after the other; after each of them the rows must balance."""
    kept = tuple(examples)
    dropped: list[Dropped] = []
    for part in filters:
        result = part.apply(context, kept)
        conserve(f"round {context.round}, filter {type(part).__name__}", kept, result.kept, result.dropped)
        kept = result.kept
        dropped.extend(result.dropped)
    return FilterResult(kept, tuple(dropped))


def conserve(where: str, before: Sequence[Example], kept: Sequence[Example], dropped: Sequence[Dropped]) -> None:
    """Every candidate ends in exactly one bucket, and every drop has a name, else the run stops."""
    came, went = [e.id for e in before], [*(e.id for e in kept), *(d.example.id for d in dropped)]
    if sorted(came) != sorted(went):
        lost, invented = sorted(set(came) - set(went)), sorted(set(went) - set(came))
        twice = sorted(name for name, count in Counter(went).items() if count > 1)
        raise RunFailed(
            f"{where}: {len(came)} candidates in, {len(kept)} kept + {len(dropped)} dropped out"
            f" (lost: {lost[:3]}, invented: {invented[:3]}, in two buckets: {twice[:3]}); a part of the recipe loses rows"
        )
    nameless = [drop.example.id for drop in dropped if not drop.rule]
    if nameless:
        raise RunFailed(f"{where}: dropped without a named rule: {nameless[:3]}")
