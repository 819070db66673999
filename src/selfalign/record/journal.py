"""Work that is in the record before it counts: batches of a model's answers and scores, read back by a run that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from selfalign.errors import RunFailed
from selfalign.protocols import Continuations, Generate, Journal, Likelihoods, Progress, Session, Work
from selfalign.record.store import Store
from selfalign.types import Completion, Continuation, Example, Likelihood, Request, Sampling, Turns

Arrange = Callable[[Sequence[Example]], tuple[Example, ...]]
"""The order in which a prompt shows its demonstrations."""

SCORED_AT_ONCE = 320
"""Texts whose log-likelihoods are committed together: 32 rows, the engine's default batch, of the ten texts that a judge asks for
one pair. The HF engine puts texts with a common beginning into one row and cuts batches that fit its memory itself, longest
first; fewer texts would cut a judge's ten apart and leave most of those batches empty."""


def journaled_generate(store: Store, round: int, session: Session, progress: Progress, arrange: Arrange = tuple) -> Generate:
    """Planned batches, each committed whole: a run that is killed repeats one of them at most, and writes the same bytes."""

    def generate(stage: str, requests: Sequence[Request], sampling: Sampling) -> list[tuple[Request, Completion]]:
        done = store.done_batches(round, stage)
        if len(done) < len(requests):
            fitted = [_fitted(session, request, sampling.max_tokens, arrange) for request in requests]
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


def journaled_likelihood(store: Store, round: int, session: Session, progress: Progress, arrange: Arrange = tuple) -> Likelihoods:
    def likelihood(stage: str, examples: Sequence[Example], shown: Sequence[Sequence[Example]] = ()) -> list[Likelihood]:
        def score(places: Sequence[int]) -> list[dict[str, Any]]:
            before = [arrange(shown[i]) for i in places] if shown else ()
            values = session.likelihood([examples[i] for i in places], before)
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


def _fitted(session: Session, request: Request, max_tokens: int, arrange: Arrange) -> Request | None:
    """See `Session.fit`; what has no room goes in the order chosen, before the rest is arranged. Texts stay as they are."""
    fitted = session.fit(request, max_tokens)
    if fitted is None or fitted.text is not None or (shown := arrange(fitted.demonstrations)) == fitted.demonstrations:
        return fitted
    return session.fit(replace(fitted, demonstrations=shown), max_tokens)  # a join of two texts may take a token more


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
