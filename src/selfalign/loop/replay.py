"""The base model's answers to general prompts: made once in a run, journaled, and rows of every round's training."""

from __future__ import annotations

import time
from dataclasses import replace

from selfalign.filters import EmptyResponse, Finished
from selfalign.loop import parts
from selfalign.loop.context import Setup
from selfalign.loop.steps import apply_filters, respond
from selfalign.protocols import Context
from selfalign.record.exports import write_lines
from selfalign.record.replay import add_replay, replay_rows


def make_replay(run: Setup, context: Context) -> None:
    """Lets the base model (`context` is round 0's) answer the replay prompts, once.

    Rules: `no_room`, `not_renderable`, `cut_off`, `empty_response`. An answer that ran into its tokens teaches no end. Where a
    teacher says what is learned of an answer, its beginning is enough: as many tokens as the round's own answers, none cut off.
    """
    if (replay := run.recipe.replay) is None:
        return
    if run.store.stage(0, "replay") is None:
        began = time.monotonic()
        drafts = replay.drafts(context.seed)
        taught = run.recipe.shown_to == "teacher"
        most = run.recipe.sampling.max_tokens if taught else replay.sampling.max_tokens
        asking = replace(run.recipe, sampling=replace(replay.sampling, max_tokens=most))
        answered = respond(asking, context, drafts, "replay", alone=True)
        filters = (EmptyResponse(),) if taught else (Finished(sentence_end=False), EmptyResponse())
        judged = apply_filters(context, filters, answered.kept)
        dropped = (*answered.dropped, *judged.dropped)
        parts.balance("replay", drafts, judged.kept, dropped)
        add_replay(run.store, judged.kept, dropped, time.monotonic() - began - run.store.seconds(0))
    write_lines(run.store.round_folder(0) / "replay.jsonl", replay_rows(run.store))
