"""The stages of a round: candidates made and filtered, a model trained, its figures. Each is done once, and recorded."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from itertools import chain
from pathlib import Path

from selfalign.errors import RunFailed
from selfalign.loop import parts
from selfalign.loop.as_seeds import wrong_as_shown
from selfalign.loop.caveats import caveats
from selfalign.loop.context import Setup
from selfalign.loop.glimpse import glimpse
from selfalign.loop.progress import say
from selfalign.loop.shortcuts import audited
from selfalign.loop.steps import make_round
from selfalign.proof.diversity import GUARDS
from selfalign.proof.shortcuts import warning
from selfalign.protocols import Context, TrainJob
from selfalign.record.checkpoints import read_manifest
from selfalign.record.exports import export_round
from selfalign.record.replay import replayed
from selfalign.types import ModelRef, Pool, derive_seed

_log = logging.getLogger(__name__)


def generate(run: Setup, context: Context, pool: Pool) -> None:
    """The candidates of a round, made and filtered once; what was kept stands in the record."""
    recipe, store = run.recipe, run.store
    if not recipe.candidates(context.round):
        return
    if store.stage(context.round, "filter") is None:
        began = time.monotonic()
        wrong = wrong_as_shown(recipe, context) if context.round == 1 else ""
        result = make_round(recipe, context, pool)
        made, first = (*result.kept, *(drop.example for drop in result.dropped)), recipe.candidates(context.round)
        candidates = max(first, 1 + max((example.slot for example in made), default=-1))  # what follows on some, too
        spent = time.monotonic() - began - store.seconds(context.round)
        with store.transaction("filter"):
            if recipe.given and (text := recipe.given.shortage(context.round, recipe.per_round)):
                store.event("given", {"text": text})
            if wrong:
                _log.warning("%s", wrong)
                store.event("evaluation", {"text": wrong})
            store.finish_round_samples(context.round, result.kept, result.dropped, candidates, spent)
        say(run.progress, glimpse(context.round, result))
    export_round(store, context.round)


def train(run: Setup, round: int, current: ModelRef, pool: Pool) -> ModelRef:
    """The model of a round: read back if its files verify, trained (on from its last good checkpoint) if not."""
    store = run.store
    ready, folder = store.verified_model(round), store.round_folder(round)
    if ready is not None:
        shutil.rmtree(folder / "training", ignore_errors=True)
        return ready
    shutil.rmtree(folder / "model", ignore_errors=True)  # written, but the record of it was not: nobody vouches for it
    job = train_job(run, round, run.base if run.recipe.start_from == "base" else current, pool, folder)
    began = time.monotonic()
    rows = (*job.seeds, *job.generated)
    where = f"round {round}, training by {type(run.recipe.trainer).__name__}"
    with parts.watched(where, rows):
        result = run.recipe.trainer.train(job, run.progress)
    learnt = set(result.trained)
    trained = [example for example in rows if example.id in learnt]
    if strange := sorted(learnt - {example.id for example in rows}):
        raise RunFailed(f"{where}: trained on {strange[0]!r}, which it was not given")
    parts.conserve(where, rows, trained, result.dropped)
    store.add_model(round, result.model, read_manifest(job.out), result, time.monotonic() - began)
    shutil.rmtree(job.work, ignore_errors=True)
    return store.model(round)


def train_job(run: Setup, round: int, start: ModelRef, pool: Pool, folder: Path) -> TrainJob:
    """What a round trains on, and how; work and model in `folder`."""
    recipe = run.recipe
    parts_read = pool.parts[round if recipe.train_on == "latest" else 1 :] if round != recipe.seeds_round else ()
    generated = tuple(chain.from_iterable(parts_read))
    named = {shown.id for example in generated for shown in example.response_demonstrations}
    return TrainJob(
        round=round,
        start=start,
        seeds=pool.seeds if recipe.learns_seeds(round) else (),
        generated=(*generated, *replayed(run.store)),
        base=run.base,
        first=run.store.model(1) if round > 1 else None,
        shown=tuple(example for example in pool.examples if example.id in named),
        # A last round of seeds alone has at most replay rows besides: each row counts the same there.
        seed_weight=None if recipe.train_seeds == "last" else recipe.seed_weight,
        format=recipe.format,
        seed=derive_seed(recipe.seed, round, "train"),
        learning_rate_scale=recipe.learning_rate_decay ** (round - 1),
        steps=recipe.steps[round - 1] if recipe.steps else 0,
        work=folder / "training",
        out=folder / "model",
    )


def evaluate(run: Setup, context: Context) -> None:
    """The recipe's evaluators on the model of the context's round, once.

    Raises:
        RunFailed: two metrics of one name, or one that is named as the guards' are.
    """
    recipe, store = run.recipe, run.store
    if store.stage(context.round, "evaluate") is not None:
        return
    began = time.monotonic()
    metrics = [metric for part in recipe.evaluators for metric in parts.evaluate(context, part, run.held_out)]
    if taken := [metric.name for metric in metrics if metric.name.startswith(GUARDS)]:
        raise RunFailed(f"an evaluator names a metric {taken[0]}; the guards' names begin so: {', '.join(GUARDS)}")
    if twice := [name for name, count in Counter(metric.name for metric in metrics).items() if count > 1]:
        raise RunFailed(f"two evaluators of recipe {recipe.name} give the metric {twice[0]}; one would replace the other")
    with store.transaction("evaluate"):
        for text in caveats(recipe, context.all_seeds, run.held_out) if context.round == 0 else ():
            _log.warning("%s", text)
            store.event("evaluation", {"text": text})
        if context.round == 0 and (rows := audited(recipe, context.all_seeds, run.held_out, context.encode)):
            store.event("shortcuts", {"text": warning(rows) or "no trivial rule wins on the held-out prompts", "rows": rows})
        store.finish_evaluation(context.round, metrics, time.monotonic() - began - store.seconds(context.round))
