"""The steps of a round, as glue over the protocols: proposing, answering, filtering that loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from selfalign.errors import UserError
from selfalign.filters import Differs
from selfalign.loop import parts
from selfalign.proof.overlap import asked_by_both, systems_decide
from selfalign.protocols import Context, Filter
from selfalign.recipe import Recipe
from selfalign.types import ROLLOUT, Demonstration, Dropped, Example, FilterResult, Pool, Request, derive_seed, shared_system


def make_round(recipe: Recipe, context: Context, pool: Pool) -> FilterResult:
    """Propose, retrieve, answer, score, filter: every candidate of the round, kept or dropped by a named rule.

    Second turns are candidates too, behind all others. Their filters see the whole `pool`, earlier second turns included, and
    the first turns just kept: a follow-up that asks the first question again is not novel.
    """
    count = recipe.candidates(context.round)
    whole = getattr(recipe.proposer, "takes_conversations", False)
    proposing = replace(context, pool=Pool((pool.seeds,))) if whole else context
    proposed = _under_systems(parts.propose(proposing, recipe.proposer, recipe.per_round, count), context)
    drafts, held = _without_validation(proposed, pool.seeds, context.all_seeds)
    worked = work_out(recipe, context, drafts)
    first = FilterResult(worked.kept, (*worked.dropped, *held))
    if (oppose := getattr(recipe.proposer, "oppose", None)) is not None:
        return _opposed(recipe, context, first, oppose(context, first.kept, count))
    if not recipe.second_turns.share:
        return first
    more = recipe.second_turns.propose(context, first.kept, count)
    second = work_out(recipe, context, more, "respond_second_turn", pool.add(first.kept))
    return FilterResult((*first.kept, *second.kept), (*first.dropped, *second.dropped))


def _under_systems(drafts: Sequence[Example], context: Context) -> list[Example]:
    """Gives drafts without a system prompt the one that all seeds of their category share: a model that will be used with it must
    not learn from answers that it gave without it."""
    seeds, kinds = context.pool.seeds, {draft.category for draft in drafts}
    shared = {kind: shared_system([seed for seed in seeds if kind in ("", seed.category)]) for kind in kinds}
    return [draft if draft.system else replace(draft, system=shared[draft.category]) for draft in drafts]


def _without_validation(
    drafts: Sequence[Example], shown: Sequence[Example], seeds: Sequence[Example]
) -> tuple[list[Example], list[Dropped]]:
    """Takes out drafts that ask what a validation seed asks: trained on, they would blur the choice of the round.

    No error, as it is for held-out prompts: nobody who writes a file of prompts can know which seeds are held out.
    """
    ids, apart = {seed.id for seed in shown}, systems_decide(seeds)
    asked = {draft.id for draft, _ in asked_by_both(drafts, shown, apart=apart)}
    held = asked_by_both(drafts, [seed for seed in seeds if seed.id not in ids], apart=apart)
    found = {draft.id: seed.id for draft, seed in held if draft.id not in asked}
    dropped = [
        Dropped(draft, "validation_seed", f"asks the same as {found[draft.id]}, which chooses the round")
        for draft in drafts
        if draft.id in found
    ]
    return [draft for draft in drafts if draft.id not in found], dropped


def _opposed(recipe: Recipe, context: Context, first: FilterResult, drafts: Sequence[Example]) -> FilterResult:
    """A round with the answers that others are preferred to. Their prompts are kept ones: no rule on prompts asks again."""
    unasked = replace(recipe, prompt_filters=(), filters=(*recipe.filters, Differs()))
    second = work_out(unasked, context, drafts, "respond_opposed", context.pool.add(first.kept))
    return FilterResult((*first.kept, *second.kept), (*first.dropped, *second.dropped))


def work_out(
    recipe: Recipe, context: Context, drafts: Sequence[Example], stage: str = "respond", compared: Pool | None = None
) -> FilterResult:
    """What becomes of drafts; `compared` is the pool that filters see, where it is another one than the context's."""
    filtering = context if compared is None else replace(context, pool=compared)
    usable = split_empty(drafts)
    # A seed's own prompt to be taught an answer to is no new prompt: nothing is to be said against it.
    again = {draft.id for draft in usable.kept if recipe.shown_to == "teacher" and _asks_a_seed(draft, context.pool.seeds)}
    proposed = apply_filters(filtering, recipe.prompt_filters, [draft for draft in usable.kept if draft.id not in again])
    asked = {*again, *(draft.id for draft in proposed.kept)}
    answered = respond(recipe, context, [draft for draft in usable.kept if draft.id in asked], stage)
    whole = apply_filters(filtering, recipe.pair_filters, answered.kept)
    candidates: Sequence[Example] = whole.kept
    for scorer in recipe.scorers:
        candidates = parts.score(context, scorer, candidates)
    judged = apply_filters(filtering, recipe.filters, candidates)
    dropped = (*usable.dropped, *proposed.dropped, *answered.dropped, *whole.dropped, *judged.dropped)
    parts.balance(f"round {context.round}", drafts, judged.kept, dropped)
    return FilterResult(judged.kept, tuple(sorted(dropped, key=lambda drop: drop.example.slot)))


def _asks_a_seed(draft: Example, seeds: Sequence[Example]) -> bool:
    """Whether a draft is a seed's own prompt: it names that seed and no other example."""
    named = {shown.id for shown in draft.prompt_demonstrations}
    return any(named == {seed.id} and draft.full_prompt == seed.full_prompt for seed in seeds)


def split_empty(drafts: Sequence[Example]) -> FilterResult:
    """Drops drafts that cannot be answered: the model's window had no room for the request, or it wrote nothing."""
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


def respond(recipe: Recipe, context: Context, drafts: Sequence[Example], stage: str, alone: bool = False) -> FilterResult:
    """Answer each draft, shown the demonstrations the retriever chose for it, or `alone`; one that brings a response keeps that.

    If only a teacher is shown them, the answer is written without them and marked, so that nothing imitates it.

    A prompt that the model cannot be given is dropped before it is asked, and a pair before it could be shown: a model's text
    may spell out the marks of a turn, and would then stop the run each time.
    """
    readable = split_unreadable(context, drafts, _as_asked)
    waiting = [draft for draft in readable.kept if not draft.response]
    chosen = [()] * len(waiting) if alone else parts.retrieve(context, recipe.retriever, waiting)
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
    whole = {draft.id: draft for draft in readable.kept if draft.response}
    dropped = []
    taught = recipe.shown_to == "teacher"
    asked = [replace(request, demonstrations=()) for request in requests] if taught else requests
    results = context.generate(stage, asked, recipe.sampling)
    for draft, shown, request, (sent, completion) in zip(waiting, chosen, requests, results, strict=True):
        similarity = {example.id: value for example, value in shown}
        seen = context.session.fit(request, recipe.sampling.max_tokens) or sent if taught else sent
        example = replace(
            draft,
            response=completion.text,
            response_finish=completion.finish,
            response_demonstrations=tuple(Demonstration(d.id, similarity[d.id]) for d in seen.demonstrations),
            metadata={**draft.metadata, **({ROLLOUT: "true"} if taught else {})},
        )
        if completion.finish == "context":
            dropped.append(Dropped(example, "no_room", "the prompt does not fit the model's window, even without demonstrations"))
        else:
            whole[example.id] = example
    pairs = split_unreadable(context, [whole[draft.id] for draft in drafts if draft.id in whole], as_shown(context))
    return FilterResult(pairs.kept, (*readable.dropped, *dropped, *pairs.dropped))


def split_unreadable(context: Context, examples: Sequence[Example], asked: Callable[[Example], Request]) -> FilterResult:
    """Keeps the examples whose request the model can be given."""
    kept, dropped = [], []
    for example in examples:
        try:
            context.session.fit(asked(example), 0)
            kept.append(example)
        except UserError as error:
            dropped.append(Dropped(example, "not_renderable", str(error)))
    return FilterResult(tuple(kept), tuple(dropped))


def _as_asked(draft: Example) -> Request:
    return Request(draft.id, prompt=draft.prompt, history=draft.history, system=draft.system)


def as_shown(context: Context) -> Callable[[Example], Request]:
    """A request that shows a pair as an answered turn, or, to a model whose template knows a single turn alone, as a prompt."""

    def shown(pair: Example) -> Request:
        return Request(pair.id, (pair,), "And now?")

    def alone(pair: Example) -> Request:
        return Request(pair.id, (), pair.response)

    return shown if split_unreadable(context, context.pool.seeds[:1], shown).kept else alone


def apply_filters(context: Context, filters: Sequence[Filter], examples: Sequence[Example]) -> FilterResult:
    """One after the other; each gives back what it was given (`parts.conserve`)."""
    kept = tuple(examples)
    dropped: list[Dropped] = []
    for part in filters:
        result = parts.apply(context, part, kept)
        kept = result.kept
        dropped.extend(result.dropped)
    return FilterResult(kept, tuple(dropped))
