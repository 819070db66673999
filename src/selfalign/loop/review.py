"""A person between the filters and the training: the run waits until a round's review is done, and then counts it like a rule."""

from __future__ import annotations

import time

from selfalign.loop import parts
from selfalign.loop.context import Setup
from selfalign.loop.steps import as_shown, split_unreadable
from selfalign.protocols import Context
from selfalign.record.exports import export_round
from selfalign.record.review import Decision, after_review, decisions, finish_review, is_ready, summary, waiting
from selfalign.record.store import Store


def waited_for(store: Store) -> str:
    """What a run waits for; "" where it can go on."""
    if (round := waiting(store)) is None or is_ready(store, round):
        return ""
    return f"{summary(store, round)['text']}; `selfalign review {store.folder}` shows them, then the same command goes on"


def reviewed(run: Setup, context: Context) -> str:
    """Why the run has to wait for people before it trains; "" where it need not, or where what they decided counts by now.

    Rule: `reviewed`; also of an edited answer that the model cannot be shown, as it would stop the run.
    """
    store, round = run.store, context.round
    if not run.recipe.review or waiting(store) != round:
        return ""
    if waits := waited_for(store):
        return waits
    said = summary(store, round)
    began, pairs, decided = time.monotonic(), store.kept(round), decisions(store, round)
    was = {pair.id: (pair.response, pair.history) for pair in pairs}
    kept = after_review(pairs, decided, said["rest"]).kept
    edited = [pair for pair in kept if was[pair.id] != (pair.response, pair.history)]
    for drop in split_unreadable(context, edited, as_shown(context)).dropped:
        why = f"the model cannot be shown what it was edited to: {drop.evidence}"
        decided[drop.example.id] = Decision(drop.example.id, "rejected", why)
    result = after_review(pairs, decided, said["rest"])
    parts.balance(f"round {round}, review", pairs, result.kept, result.dropped)
    finish_review(store, round, result, time.monotonic() - began - store.seconds(round))
    export_round(store, round)
    return ""
