"""`align`: the one loop. Propose, retrieve, answer, score, filter, train, evaluate, repeat; every step journaled.

Calling it again on the same folder goes on where it stopped: finished work is read back from the store, in the same order.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from selfalign.errors import RunFailed, UserError
from selfalign.loop.guards import Verdict, choose, prove_judges, prove_weights, watch
from selfalign.loop.steps import conserve, fewer_than_asked, make_context, make_round, split_seeds
from selfalign.loop.vectors import RunVectors
from selfalign.proof.diversity import GUARDS
from selfalign.protocols import Context, Progress, TrainJob, brought
from selfalign.recipe import Recipe
from selfalign.record.checkpoints import read_manifest, write_synced
from selfalign.record.exports import export_metrics, export_round
from selfalign.record.store import Store
from selfalign.text import counted, normalise
from selfalign.types import Example, ModelRef, Pool, derive_seed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What came of a run. `model` is that of the best round; round 0 is the model as it came."""

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
    progress: Progress | None = None,
) -> Run:
    """Runs a recipe on a model, or goes on with the run that stands in `out`.

    Args:
        recipe: the slots and numbers; see `selfalign.recipes`.
        model: a local folder, a hub name, or `smollm2-135m` for the bundled one.
        seeds: the examples of the behaviour wanted (D0), as `read_seeds` gives them.
        out: the run folder.
        held_out: prompts with reference responses for the recipe's evaluators; never used to choose anything.
        options: the run's options as YAML, for `run.yaml` in the run folder.
        progress: told of stages and batches; the command line draws bars with it.

    Raises:
        UserError: options, seeds or model that cannot work, or a folder of another run; before a model loads.
        RunFailed: a run that cannot go on; its folder stays resumable.
    """
    recipe.check()
    held_out = check_examples(seeds, held_out, recipe.allow_overlap, seeds_needed(recipe))
    asked = (*held_out, *check_brought(recipe, seeds))
    start = recipe.engine.check(ModelRef(model), (*seeds, *held_out), recipe.format)
    with Store.open(out, run_identity(recipe, start, seeds, held_out)) as store:
        if options:
            write_synced(store.folder / "run.yaml", options.encode())
        return _rounds(recipe, store, start, seeds, held_out, asked, progress or Quiet())


def run_identity(recipe: Recipe, start: ModelRef, seeds: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    """What must be equal for a run to be gone on with: the recipe's options and the content of model and examples."""
    return {
        **recipe.identity(),
        "model": start.base,
        "adapter": start.adapter,
        "model_hash": start.hash,
        "seeds_hash": hash_examples(seeds),
        "held_out_hash": hash_examples(held_out),
    }


def _rounds(
    recipe: Recipe,
    store: Store,
    start: ModelRef,
    seeds: Sequence[Example],
    held_out: Sequence[Example],
    asked: Sequence[Example],
    progress: Progress,
) -> Run:
    shown, validation = split_seeds(seeds, recipe.validation_share, recipe.seed)
    if (few := fewer_than_asked(recipe, shown)) and all(kind != "demonstrations" for _, kind, _ in store.events()):
        _log.warning("%s: %s", recipe.name, few)
        store.event("demonstrations", {"text": few})
    store.add_seeds(shown, validation)
    store.add_model(0, start)
    pool, current, stop = Pool((shown,)), start, ""
    verdict: Verdict | None = None
    vectors = RunVectors(recipe.encoder, asked)
    for round in range(recipe.rounds + 1):
        with recipe.engine.open(current, recipe.format) as session, vectors.open(session, pool) as encode:
            if recipe.trains:
                prove_weights(store, session, round, round - 1, shown)
            context = make_context(recipe, store, round, pool, current, session, encode, progress)
            if round == 0 or (recipe.evaluate == "every" and recipe.trains):
                evaluate(recipe, store, context, held_out)
            if round == 0 and recipe.rounds:
                watch(recipe, store, context, pool, asked)
            if verdict is None or recipe.trains:
                verdict = choose(recipe, store, context, current, verdict, validation)
            export_metrics(store, round)
            if not verdict.go_on or round == recipe.rounds:
                break
            following = make_context(recipe, store, round + 1, pool, current, session, encode, progress)
            prove_judges(recipe, store, following)
            kept = generate(recipe, store, following, pool)
            alarm = watch(recipe, store, following, pool, asked)
        low, first = "", sum(not example.history for example in kept)
        if recipe.per_round and first < (least := max(1.0, recipe.min_yield * recipe.per_round)):
            why = f"below min_yield = {recipe.min_yield}" if least > 1 else "too few to train on"
            low = f"round {round + 1} kept {first} of {counted(recipe.per_round, 'candidate')}, {why}"
        if stop := "; ".join(filter(None, (low, alarm))):
            export_metrics(store, round + 1)
            break
        pool = pool.add(kept)
        if recipe.trains:
            current = train(recipe, store, round + 1, start, current, pool, progress)
        elif store.verified_model(round + 1) is None:
            store.add_model(round + 1, current)
    assert verdict is not None  # round 0 has one
    best = verdict.best
    if store.stage(best.round, "evaluate") is None:
        seen = Pool(pool.parts[: best.round + 1])
        with recipe.engine.open(best.model, recipe.format) as session, vectors.open(session, seen) as encode:
            prove_weights(store, session, best.round, round, shown)
            context = make_context(recipe, store, best.round, seen, best.model, session, encode, progress)
            evaluate(recipe, store, context, held_out)
        export_metrics(store, best.round)
    if not stop:
        stop = "; ".join(filter(None, (_all_done(recipe), verdict.text))) if verdict.go_on else verdict.text
    store.finish_run(best.round, stop)
    return Run(store.folder, best.model, best.round, stop)


def _all_done(recipe: Recipe) -> str:
    done = {0: "no rounds to run", 1: "the one round is done"}.get(recipe.rounds, f"all {recipe.rounds} rounds done")
    return done if recipe.trains or not recipe.rounds else f"{done}; nothing was trained"


def generate(recipe: Recipe, store: Store, context: Context, pool: Pool) -> tuple[Example, ...]:
    """The candidates of a round, made and filtered once and then read back."""
    if not recipe.per_round:
        return ()
    if store.stage(context.round, "filter") is None:
        began = time.monotonic()
        result = make_round(recipe, context, pool)
        made = (*result.kept, *(drop.example for drop in result.dropped))
        candidates = recipe.per_round + sum(bool(example.history) for example in made)
        spent = time.monotonic() - began - store.seconds(context.round)
        store.finish_round_samples(context.round, result.kept, result.dropped, candidates, spent)
    export_round(store, context.round)
    return store.kept(context.round)


def train(
    recipe: Recipe, store: Store, round: int, base: ModelRef, current: ModelRef, pool: Pool, progress: Progress
) -> ModelRef:
    """The model of a round: read back if its files verify, trained (on from its last good checkpoint) if not."""
    ready, folder = store.verified_model(round), store.round_folder(round)
    if ready is not None:
        shutil.rmtree(folder / "training", ignore_errors=True)
        return ready
    shutil.rmtree(folder / "model", ignore_errors=True)  # written, but the record of it was not: nobody vouches for it
    job = TrainJob(
        round=round,
        start=base if recipe.start_from == "base" else current,
        seeds=pool.seeds if recipe.train_seeds else (),
        generated=pool.parts[round] if recipe.train_on == "latest" else tuple(chain.from_iterable(pool.parts[1:])),
        seed_weight=recipe.seed_weight,
        format=recipe.format,
        seed=derive_seed(recipe.seed, round, "train"),
        learning_rate_scale=recipe.learning_rate_decay ** (round - 1),
        steps=recipe.steps[round - 1] if recipe.steps else 0,
        work=folder / "training",
        out=folder / "model",
    )
    began = time.monotonic()
    result = recipe.trainer.train(job, progress)
    rows = (*job.seeds, *job.generated)
    learnt = set(result.trained)
    trained = [example for example in rows if example.id in learnt]
    conserve(f"round {round}, training", rows, trained, result.dropped)
    store.add_model(round, result.model, read_manifest(job.out), result, time.monotonic() - began)
    shutil.rmtree(job.work, ignore_errors=True)
    return store.model(round)


def evaluate(recipe: Recipe, store: Store, context: Context, held_out: Sequence[Example]) -> None:
    if store.stage(context.round, "evaluate") is None:
        began = time.monotonic()
        metrics = [metric for part in recipe.evaluators for metric in part.evaluate(context, held_out)]
        if taken := [metric.name for metric in metrics if metric.name.startswith(GUARDS)]:
            raise RunFailed(f"an evaluator names a metric {taken[0]}; the guards' names begin so: {', '.join(GUARDS)}")
        if twice := [name for name, count in Counter(metric.name for metric in metrics).items() if count > 1]:
            raise RunFailed(f"two evaluators of recipe {recipe.name} give the metric {twice[0]}; one would replace the other")
        store.finish_evaluation(context.round, metrics, time.monotonic() - began - store.seconds(context.round))


def seeds_needed(recipe: Recipe) -> int:
    """How many seeds a recipe cannot do without: none where it neither trains on any nor shows any."""
    return 2 if recipe.rounds or recipe.responder is not None else 0


def check_examples(
    seeds: Sequence[Example], held_out: Sequence[Example], allow_overlap: bool, needed: int
) -> tuple[Example, ...]:
    """The held-out examples, with ids that no seed has: files without ids both count from 1.

    Args:
        needed: how many seeds there must be at least (`seeds_needed`).

    Raises:
        UserError: too few seeds, an id that the run would give to a sample, a held-out prompt that is among the seeds (it
            would be trained on), unless `allow_overlap`.
    """
    if (single := sum(not seed.history for seed in seeds)) < needed:
        what = "" if single == len(seeds) else " without earlier turns"
        raise UserError(f"{counted(single, 'seed example')}{what}: at least {needed} are needed, 20 to 100 make sense")
    taken = [seed.id for seed in seeds if re.fullmatch(r"r\d{2,}-\d{5,}(\.2)?", seed.id)]
    if taken:
        raise UserError(f"seed id {taken[0]!r} looks like the id of a generated sample; rename it")
    same = _asked_by_both(held_out, seeds)
    if same and not allow_overlap:
        more = f" ({len(same)} such examples)" if len(same) > 1 else ""
        raise UserError(f"held-out example {same[0][0]} asks the same as seed {same[0][1]}{more}; take one of them out")
    if {seed.id for seed in seeds} & {example.id for example in held_out}:
        return tuple(replace(example, id=f"held-out/{example.id}") for example in held_out)
    return tuple(held_out)


def check_brought(recipe: Recipe, seeds: Sequence[Example]) -> tuple[Example, ...]:
    """The prompts that the recipe's evaluators bring.

    Raises:
        UserError: what is wrong with them, or one that asks the same as a seed that is shown and trained on, unless
            `allow_overlap`.
    """
    shown, _ = split_seeds(seeds, recipe.validation_share, recipe.seed)
    prompts = brought(recipe.evaluators, shown)
    if (same := _asked_by_both(prompts, shown)) and not recipe.allow_overlap:
        raise UserError(f"prompt {same[0][0]} of an evaluator asks the same as seed {same[0][1]}; take one of them out")
    return prompts


def _asked_by_both(prompts: Sequence[Example], seeds: Sequence[Example]) -> list[tuple[str, str]]:
    """(prompt, seed), by id, of those that ask the same."""
    known = {normalise(seed.asked): seed.id for seed in seeds}
    return [(prompt.id, known[asked]) for prompt in prompts if (asked := normalise(prompt.asked)) in known]


def hash_examples(examples: Sequence[Example]) -> str:
    rows = [
        [e.id, e.prompt, e.response, e.category, sorted(e.metadata.items()), *filter(None, (e.history, e.system))]
        for e in examples
    ]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
