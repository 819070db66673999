"""`align`: the one loop. Propose, retrieve, answer, score, filter, train, evaluate, repeat; every step journaled.

Calling it again on the same folder goes on where it stopped: finished work is read back from the store, in the same order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from selfalign.encoders.blind import encoder_blind
from selfalign.errors import RunFailed, no_exit
from selfalign.loop import parts
from selfalign.loop.context import Setup, opened
from selfalign.loop.fluency import spelled_out
from selfalign.loop.growth import grown, later_rounds
from selfalign.loop.guards import (
    Best,
    Verdict,
    calibrate_judges,
    check_training_data,
    check_turns,
    choose,
    try_rules,
    verify_weights,
)
from selfalign.loop.preflight import fewer_than_asked, prepared
from selfalign.loop.replay import make_replay
from selfalign.loop.shortcuts import audited
from selfalign.loop.steps import make_round
from selfalign.loop.vectors import RunVectors
from selfalign.loop.versions import software
from selfalign.proof.diversity import GUARDS
from selfalign.proof.shortcuts import warning
from selfalign.proof.stats import LEAST
from selfalign.protocols import Context, Preflight, Progress, TrainJob, declared
from selfalign.recipe import Recipe
from selfalign.record.checkpoints import read_manifest, write_synced
from selfalign.record.disk import reporting
from selfalign.record.exports import export_metrics, export_round
from selfalign.record.joined import joined
from selfalign.record.replay import replayed
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Example, ModelRef, Pool, derive_seed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What came of a run. `model` is that of the best round; round 0 is the base model."""

    folder: Path
    model: ModelRef
    best_round: int
    stopped_because: str


class Quiet:
    """Progress that nobody watches."""

    def start(self, stage: str, total: int, done: int = 0) -> None: ...
    def advance(self, count: int = 1, note: str = "") -> None: ...
    def finish(self) -> None: ...


def align(
    recipe: Recipe,
    model: str,
    seeds: Sequence[Example],
    out: str | Path,
    *,
    held_out: Sequence[Example] = (),
    options: str = "",
    files: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Run:
    """Runs a recipe on a model, or goes on with the run that stands in `out`, also for more rounds than it had.

    Args:
        recipe: the slots and numbers; see `selfalign.recipes`.
        model: a local folder, a hub name, or `smollm2-135m` for the bundled one.
        seeds: the examples of the behaviour wanted (D0), as `read_seeds` gives them.
        out: the run folder.
        held_out: prompts with reference responses for the recipe's evaluators; never used to choose anything.
        options: the run's options as YAML, for `run.yaml` in the run folder.
        files: the file that the recipe comes from, where it is one of your own: its hash stands in the record, and a run does not
            go on with another content of it.
        progress: hears of stages and batches; the command line draws bars with it.

    Raises:
        UserError: options, seeds or model that cannot work, or a folder of another run; before a model loads.
        RunFailed: a run that cannot go on; its folder stays resumable.
    """
    with no_exit(f"recipe {recipe.name}"):
        return _align(recipe, model, seeds, Path(out), held_out, (options, files), progress or Quiet())


def _align(
    recipe: Recipe,
    model: str,
    seeds: Sequence[Example],
    out: Path,
    held_out: Sequence[Example],
    source: tuple[str, Sequence[Path]],
    progress: Progress,
) -> Run:
    options, files = source
    chosen, first = recipe, prepared(recipe, model, seeds, held_out)
    recipe, base, shown, validation, held_out, asked = first
    if recipe.encoder != chosen.encoder:
        _log.warning("%s; the model's own hidden states are used instead", encoder_blind(chosen.encoder, seeds))
    if recipe.rounds * recipe.per_round and (unknown := spelled_out(recipe.engine, base, seeds)):
        _log.warning("%s", unknown)
    vectors = RunVectors(recipe.encoder, asked)
    identity, made_with = run_identity(recipe, base, seeds, held_out), software(recipe, files)
    with Store.open(out, identity, made_with) as store, reporting(store.folder):
        if options:
            write_synced(store.folder / "run.yaml", options.encode())
        with no_exit(f"recipe {recipe.name}"):  # here too, so that the record says why
            later = later_rounds(chosen, model, seeds, first, joined(store))
            return _rounds(Setup(recipe, store, base, shown, validation, held_out, asked, vectors, progress, later))


def run_identity(recipe: Recipe, start: ModelRef, seeds: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    """What must be equal for a run to be gone on with: the recipe's options and the content of model and examples."""
    return {
        # These first: with other examples the token budgets differ too, and the first difference is the one that is named.
        "model": start.base,
        "adapter": start.adapter,
        "model_hash": start.hash,
        "seeds_hash": hash_examples(seeds),
        "held_out_hash": hash_examples(held_out),
        **recipe.identity(),
    }


def hash_examples(examples: Sequence[Example]) -> str:
    rows = [
        [e.id, e.prompt, e.response, e.category, sorted(e.metadata.items()), *filter(None, (e.history, e.system))]
        for e in examples
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def _rounds(run: Setup) -> Run:
    recipe, store = run.recipe, run.store
    _record_seeds(run)
    pool, model, stop, used = Pool((run.shown,)), run.base, "", ""
    verdict: Verdict | None = None
    for round in range(recipe.rounds + 1):
        with opened(run, model, pool) as context:
            verdict = _measure(run, context(round), pool, model, verdict)
            if not verdict.go_on or round == recipe.rounds or (used := _used_up(recipe, round + 1)):
                break
            if not (joins := run.joining(round + 1)):
                kept, alarm = _next_examples(run, context(round + 1), pool)
        if joins:
            run, pool = grown(run, pool, round + 1)
            with opened(run, model, pool) as context:
                verify_weights(run, context(round), round - 1)
                try_rules(run, context(round + 1))
                kept, alarm = _next_examples(run, context(round + 1), pool)
        if stop := "; ".join(filter(None, (_too_few_kept(run, round + 1, kept), alarm))):
            export_metrics(store, round + 1)
            break
        pool = pool.add(kept)
        if recipe.trains:
            model = train(run, round + 1, model, pool)
        elif store.verified_model(round + 1) is None:
            store.add_model(round + 1, model)
    assert verdict is not None  # round 0 has one
    _evaluate_best(run, verdict.best, pool, served_last=round)
    check_turns(run)
    if not stop:
        done = (used or _all_done(recipe), verdict.text, _unchecked(run))
        stop = "; ".join(filter(None, done)) if verdict.go_on else verdict.text
    store.finish_run(verdict.best.round, stop)
    return Run(store.folder, verdict.best.model, verdict.best.round, stop)


def _record_seeds(run: Setup) -> None:
    recipe, store = run.recipe, run.store
    if (few := fewer_than_asked(recipe, run.shown)) and all(kind != "demonstrations" for _, kind, _ in store.events()):
        _log.warning("%s: %s", recipe.name, few)
        store.event("demonstrations", {"text": few})
    if recipe.prompt_notes and all(kind != "given" for _, kind, _ in store.events()):
        with store.transaction("given"):
            for text in recipe.prompt_notes:
                _log.warning("%s", text)
                store.event("given", {"text": text})
    store.add_seeds(run.shown, run.validation)
    store.add_model(0, run.base)


def _measure(run: Setup, context: Context, pool: Pool, model: ModelRef, last: Verdict | None) -> Verdict:
    """What the round's model is worth; where nothing is trained, that of round 0 stands for all."""
    recipe, round = run.recipe, context.round
    if recipe.trains:
        verify_weights(run, context, round - 1)
    if round == 0:
        try_rules(run, context)
    if round == 0 or (recipe.evaluate == "every" and recipe.trains):
        evaluate(run, context)
    if round == 0 and recipe.rounds:
        make_replay(run, context)
        check_training_data(run, context, pool)
    verdict = choose(run, context, model, last) if last is None or recipe.trains else last
    export_metrics(run.store, round)
    return verdict


def _next_examples(run: Setup, context: Context, pool: Pool) -> tuple[tuple[Example, ...], str]:
    """(what the context's round trains on besides the seeds, why it must not; "" where it may)."""
    calibrate_judges(run, context)
    kept = generate(run, context, pool)
    return kept, check_training_data(run, context, pool)


def _too_few_kept(run: Setup, round: int, kept: Sequence[Example]) -> str:
    recipe, made = run.recipe, run.recipe.candidates(round)
    first, least = sum(example.slot < made for example in kept), max(1.0, recipe.min_yield * made)
    if not made or first >= least:
        return ""
    why = f"below min_yield = {recipe.min_yield}" if least > 1 else "too few to train on"
    text = f"round {round} kept {first} of {counted(made, 'candidate')}, {why}"
    # A model that imitates seeds which break the rules breaks them too; later rounds imitate what was kept as well.
    poor = (run.store.stage(0, "seed_rules") or {}).get("stops", ()) if round == 1 else ()
    return f"{text}; the seeds themselves break the rules: {'; '.join(poor)}" if poor else text


def _evaluate_best(run: Setup, best: Best, pool: Pool, served_last: int) -> None:
    """Evaluates the model to ship where its round was not evaluated."""
    if run.store.stage(best.round, "evaluate") is not None:
        return
    seen = Pool(pool.parts[: best.round + 1])
    with opened(run, best.model, seen) as context:
        best_context = context(best.round)
        verify_weights(run, best_context, served_last)
        evaluate(run, best_context)
    export_metrics(run.store, best.round)


def _used_up(recipe: Recipe, round: int) -> str:
    """Why a round has no candidates at all; "" where it has some, or needs none."""
    used = recipe.per_round and not recipe.candidates(round)
    return f"round {round} finds no given prompt left; --prompts_share below 1 lets the model write its own" if used else ""


def _all_done(recipe: Recipe) -> str:
    done = {0: "no rounds to run", 1: "the one round is done"}.get(recipe.rounds, f"all {recipe.rounds} rounds done")
    return done if recipe.trains or not recipe.rounds else f"{done}; nothing was trained"


def _unchecked(run: Setup) -> str:
    """What has to be said of the round to ship where no round was chosen; "" where one was, or none is trained."""
    if not run.recipe.rounds or not run.recipe.trains or len(run.validation) >= LEAST:
        return ""
    return f"the newest round is shipped unchecked: {len(run.validation)} validation seeds, and {LEAST} are needed to choose one"


def generate(run: Setup, context: Context, pool: Pool) -> tuple[Example, ...]:
    """The candidates of a round, made and filtered once and then read back."""
    recipe, store = run.recipe, run.store
    if not recipe.per_round:
        return ()
    if store.stage(context.round, "filter") is None:
        began = time.monotonic()
        result = make_round(recipe, context, pool)
        made, first = (*result.kept, *(drop.example for drop in result.dropped)), recipe.candidates(context.round)
        candidates = max(first, 1 + max((example.slot for example in made), default=-1))  # what follows on some, too
        spent = time.monotonic() - began - store.seconds(context.round)
        with store.transaction("filter"):
            if recipe.given and (text := recipe.given.shortage(context.round, recipe.per_round)):
                store.event("given", {"text": text})
            store.finish_round_samples(context.round, result.kept, result.dropped, candidates, spent)
    export_round(store, context.round)
    return store.kept(context.round)


def train(run: Setup, round: int, current: ModelRef, pool: Pool) -> ModelRef:
    """The model of a round: read back if its files verify, trained (on from its last good checkpoint) if not."""
    store = run.store
    ready, folder = store.verified_model(round), store.round_folder(round)
    if ready is not None:
        shutil.rmtree(folder / "training", ignore_errors=True)
        return ready
    shutil.rmtree(folder / "model", ignore_errors=True)  # written, but the record of it was not: nobody vouches for it
    job = _job(run, round, run.base if run.recipe.start_from == "base" else current, pool, folder)
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


def _job(run: Setup, round: int, start: ModelRef, pool: Pool, folder: Path) -> TrainJob:
    recipe = run.recipe
    generated = tuple(chain.from_iterable(pool.parts[round if recipe.train_on == "latest" else 1 :]))
    named = {shown.id for example in generated for shown in example.response_demonstrations}
    return TrainJob(
        round=round,
        start=start,
        seeds=pool.seeds if recipe.train_seeds else (),
        generated=(*generated, *replayed(run.store)),
        base=run.base,
        shown=tuple(example for example in pool.examples if example.id in named),
        seed_weight=recipe.seed_weight,
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
        for text in _caveats(run, context):
            _log.warning("%s", text)
            store.event("evaluation", {"text": text})
        if context.round == 0 and (rows := audited(recipe, context.all_seeds, run.held_out)):
            store.event("shortcuts", {"text": warning(rows) or "no trivial rule wins on the held-out prompts", "rows": rows})
        store.finish_evaluation(context.round, metrics, time.monotonic() - began - store.seconds(context.round))


def _caveats(run: Setup, context: Context) -> list[str]:
    """What a reader must know of the evaluators' figures, once: in round 0."""
    parts = run.recipe.evaluators if context.round == 0 else ()
    return [text for part in parts if (text := declared(part, Preflight).preflight(context.all_seeds, run.held_out))]
