"""The steps of a round, as glue over the protocols: journaled generation, filtering that loses nothing, validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from selfalign.errors import RunFailed
from selfalign.pool import Pool
from selfalign.protocols import Context, Continuations, Encode, Filter, Generate, Journal, Likelihoods, Progress, Session, Work
from selfalign.recipe import Recipe
from selfalign.store import Store
from selfalign.types import (
    Completion,
    Continuation,
    Demonstration,
    Dropped,
    Example,
    FilterResult,
    FloatArray,
    Likelihood,
    ModelRef,
    Request,
    Sampling,
    Turns,
    derive_seed,
)

SCORED_AT_ONCE = 320
"""Texts whose log-likelihoods are committed together: 32 rows, the engine's default batch, of the ten texts that a judge asks for
one pair. The HF engine puts texts with a common beginning into one row and cuts batches that fit its memory itself, longest
first; fewer texts would cut a judge's ten apart and leave most of those batches empty."""


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

    def journaled(session: Session) -> dict[str, Any]:
        return {
            "session": session,
            "generate": journaled_generate(store, round, session, progress),
            "likelihood": journaled_likelihood(store, round, session, progress),
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
        twice = sorted({name for name in went if went.count(name) > 1})
        raise RunFailed(
            f"{where}: {len(came)} candidates in, {len(kept)} kept + {len(dropped)} dropped out"
            f" (lost: {lost[:3]}, invented: {invented[:3]}, in two buckets: {twice[:3]}); a part of the recipe loses rows"
        )
    nameless = [drop.example.id for drop in dropped if not drop.rule]
    if nameless:
        raise RunFailed(f"{where}: dropped without a named rule: {nameless[:3]}")


def journaled_generate(store: Store, round: int, session: Session, progress: Progress) -> Generate:
    """Planned batches, each committed whole: a run that is killed repeats one of them at most, and writes the same bytes."""

    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        done = store.done_batches(round, stage)
        if len(done) < len(requests):
            fitted = [session.fit(request, sampling.max_tokens) for request in requests]
            roomless: dict[int, dict[str, Any]] = {
                slot: {
                    "id": requests[slot].id,
                    "text": "",
                    "finish": "context",
                    "demonstrations": [],
                    "prompt": requests[slot].prompt,
                    **_told(requests[slot].history),
                }
                for slot, request in enumerate(fitted)
                if request is None and slot not in done
            }
            if roomless:  # in no batch of the plan, but in the record like all others: exports and reports are made from it
                store.add_batch(round, stage, -1, roomless, 0.0)
                done.update(roomless)
            places = [slot for slot, request in enumerate(fitted) if request is not None]
            sent = [request for request in fitted if request is not None]

            def run(batch: tuple[int, ...]) -> dict[int, Any]:
                rows = [sent[i] for i in batch]
                return {
                    places[i]: {
                        "id": row.id,
                        "text": completion.text,
                        "finish": completion.finish,
                        "prompt_tokens": completion.prompt_tokens,
                        "generated_tokens": completion.generated_tokens,
                        "demonstrations": [example.id for example in row.demonstrations],
                        "prompt": row.prompt,
                        **_told(row.history),
                        "prompt_text": session.render(row),
                    }
                    for i, row, completion in zip(batch, rows, session.generate(rows, sampling), strict=True)
                }

            _run_batches(store, round, stage, session.plan(sent), places, done, run, progress)
        return [_read_back(request, done[slot], stage) for slot, request in enumerate(requests)]

    return generate


def journaled_likelihood(store: Store, round: int, session: Session, progress: Progress) -> Likelihoods:
    def likelihood(stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        def score(places: Sequence[int]) -> list[dict[str, Any]]:
            values = session.likelihood([examples[i] for i in places], [shown[i] for i in places] if shown else ())
            return [{"id": examples[i].id, "total": v.total, "tokens": v.tokens} for i, v in zip(places, values, strict=True)]

        done = _worked(store, round, stage, len(examples), score, SCORED_AT_ONCE, progress)
        for example, row in zip(examples, done, strict=True):
            _same(row["id"], example.id, stage)
        return [Likelihood(row["total"], row["tokens"]) for row in done]

    return likelihood


def journaled_continuation(store: Store, round: int, session: Session, progress: Progress) -> Continuations:
    def continuation(stage: str, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        def score(places: Sequence[int]) -> list[dict[str, Any]]:
            values = session.continuation([pairs[i] for i in places])
            return [{"total": v.total, "tokens": v.tokens, "greedy": v.greedy} for v in values]

        done = _worked(store, round, stage, len(pairs), score, SCORED_AT_ONCE, progress)
        return [Continuation(row["total"], row["tokens"], row["greedy"]) for row in done]

    return continuation


def journaled_work(store: Store, round: int, progress: Progress) -> Journal:
    def journal(stage: str, ids: Sequence[str], work: Work, batch: int) -> list[dict[str, Any]]:
        def named(places: Sequence[int]) -> list[dict[str, Any]]:
            return [{"id": ids[i], **row} for i, row in zip(places, work(places), strict=True)]

        done = _worked(store, round, stage, len(ids), named, batch, progress)
        for name, row in zip(ids, done, strict=True):
            _same(row["id"], name, stage)
        return done

    return journal


def _worked(store: Store, round: int, stage: str, count: int, work: Work, size: int, progress: Progress) -> list[dict[str, Any]]:
    """What `work` makes of each of `count` positions, `size` of them committed together."""
    done = store.done_batches(round, stage)
    places = list(range(count))
    plan = [tuple(places[i : i + size]) for i in range(0, count, size)]
    run = lambda batch: dict(zip(batch, work(batch), strict=True))  # noqa: E731
    _run_batches(store, round, stage, plan, places, done, run, progress)
    return [done[slot] for slot in places]


def _run_batches(
    store: Store,
    round: int,
    stage: str,
    plan: Sequence[tuple[int, ...]],
    places: Sequence[int],
    done: dict[int, Any],
    run: Callable[[tuple[int, ...]], dict[int, Any]],
    progress: Progress,
) -> None:
    """Run what the journal does not hold yet and add it to `done`; a batch is in the journal whole or not at all."""
    waiting = [(number, batch) for number, batch in enumerate(plan) if places[batch[0]] not in done]
    if not waiting:
        return
    progress.start(f"round {round}: {stage}", sum(map(len, plan)), sum(map(len, plan)) - sum(len(b) for _, b in waiting))
    for number, batch in waiting:
        began = time.monotonic()
        rows = run(batch)
        store.add_batch(round, stage, number, rows, time.monotonic() - began)
        done.update(rows)
        progress.advance(len(batch))
    progress.finish()


def _told(history: Turns) -> dict[str, Any]:
    """Only where there is one: most requests have none."""
    return {"history": history} if history else {}


def _read_back(request: Request, row: dict[str, Any], stage: str) -> tuple[Request, Completion]:
    _same(row["id"], request.id, stage)
    shown = {example.id: example for example in request.demonstrations}
    sent = replace(request, demonstrations=tuple(shown[name] for name in row["demonstrations"]))
    completion = Completion(row["text"], row["finish"], row.get("prompt_tokens", 0), row.get("generated_tokens", 0))
    return sent, completion


def _same(found: str, asked: str, stage: str) -> None:
    """Raises RunFailed where the journal answers another question than the one asked."""
    if found != asked:
        raise RunFailed(f"stage {stage}: the journal holds {found} where {asked} is asked for; made by another version?")


def remember(encode: Encode) -> Encode:
    """The same texts are embedded once: filters and the retriever ask for the pool again and again."""
    known: dict[str, FloatArray] = {}

    def remembering(texts: Sequence[str]) -> FloatArray:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new or not texts:
            vectors = encode(new)
            known.update(zip(new, vectors, strict=True))
            if not texts:
                return vectors
        return np.stack([known[text] for text in texts])

    return remembering


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
