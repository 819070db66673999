"""The steps of a round, as glue over the protocols: proposing, answering, filtering that loses nothing, validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from selfalign.errors import RunFailed
from selfalign.loop.vectors import remember
from selfalign.protocols import Aiming, Context, Encode, Filter, Progress, Session, Showing
from selfalign.recipe import Recipe
from selfalign.record.journal import journaled_continuation, journaled_generate, journaled_likelihood, journaled_work
from selfalign.record.store import Store
from selfalign.types import (
    Demonstration,
    Dropped,
    Example,
    FilterResult,
    ModelRef,
    Pool,
    Request,
    derive_seed,
    in_pool_order,
)


def make_context(
    recipe: Recipe,
    store: Store,
    round: int,
    pool: Pool,
    current: ModelRef,
    session: Session,
    encode: Encode,
    progress: Progress,
) -> Context:
    """What the parts of a round may use; `session` is open on `current`."""

    arrange = in_pool_order if recipe.order == "shared" else tuple

    def journaled(session: Session) -> dict[str, Any]:
        return {
            "session": session,
            "generate": journaled_generate(store, round, session, progress, arrange),
            "likelihood": journaled_likelihood(store, round, session, progress, arrange),
            "continuation": journaled_continuation(store, round, session, progress),
        }

    @contextmanager
    def open_model(model: str) -> Iterator[Context]:
        resolved = store.model(0) if model == "base" else recipe.engine.check(ModelRef(model), (), recipe.format)
        if resolved == current:  # open already; a second copy would take its memory, and time to load
            yield context
            return
        with recipe.engine.open(resolved, recipe.format) as other:
            yield replace(context, **journaled(other))

    context = Context(
        round=round,
        seed=recipe.seed,
        pool=pool.single_turns(),
        encode=remember(encode),
        open_model=open_model,
        responder=recipe.responder,
        journal=journaled_work(store, round, progress),
        **journaled(session),
    )
    return context


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


def split_seeds(seeds: Sequence[Example], share: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(to show and train on, held out for validation): drawn by category where the seeds have one, order kept.

    The turns of a conversation stay together: a row held out stands in the history of none that is trained on.
    """
    conversations: dict[str, list[Example]] = {}
    for example in seeds:
        conversations.setdefault(example.history[0][0] if example.history else example.prompt, []).append(example)
    by_category: dict[str, list[list[Example]]] = {}
    for rows in conversations.values():
        by_category.setdefault(rows[0].category, []).append(rows)
    held: set[str] = set()
    for category, members in by_category.items():
        order = np.random.default_rng(derive_seed(seed, "validation", category)).permutation(len(members))
        held.update(example.id for i in order[: round(share * len(members))] for example in members[i])
    return tuple(e for e in seeds if e.id not in held), tuple(e for e in seeds if e.id in held)


def fewer_than_asked(recipe: Recipe, seeds: Sequence[Example]) -> str:
    """Which prompts of round 1 are shown fewer examples than asked for, because the seeds to show are fewer; "" for none.

    No error: the published recipes bring the numbers of their papers, which small files of seeds cannot fill.
    """
    single = [seed for seed in seeds if not seed.history]
    aiming = recipe.proposer if isinstance(recipe.proposer, Aiming) else None
    aims = set(aiming.aims(single, recipe.per_round)) if aiming is not None else {""}
    making = [("a new prompt", recipe.proposer, aims), ("an answer", recipe.retriever, aims)]
    places = [*(making if recipe.rounds * recipe.per_round else ()), ("a held-out prompt", recipe.responder, {""})]
    counts = [(what, *part.shown(single, kinds)) for what, part, kinds in places if isinstance(part, Showing)]
    short = [f"{shown} of {asked} to {what}" for what, asked, shown in counts if shown < asked]
    remedy = "give more seeds, or ask for fewer"
    return f"the seeds to show ({len(single)}) give fewer examples than asked for: {', '.join(short)}; {remedy}" if short else ""
