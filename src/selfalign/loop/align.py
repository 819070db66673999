"""`align`: the one loop. Propose, retrieve, answer, score, filter, train, evaluate, repeat; every step journaled.

Calling it again on the same folder goes on where it stopped: finished work is read back from the store, in the same order.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from selfalign.encoders.blind import encoder_blind
from selfalign.errors import no_exit
from selfalign.loop import frames
from selfalign.loop.aim import aimed
from selfalign.loop.budgets import measure
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
from selfalign.loop.method import memory_warnings, method_choice, unknown_memory
from selfalign.loop.plan import plan, plan_text
from selfalign.loop.preflight import fewer_than_asked, prepared
from selfalign.loop.progress import Quiet, on_screen
from selfalign.loop.prompts import replay_warning
from selfalign.loop.replay import make_replay
from selfalign.loop.review import reviewed, waited_for
from selfalign.loop.seed_warnings import seed_warnings
from selfalign.loop.stages import evaluate, generate, train
from selfalign.loop.vectors import RunVectors
from selfalign.loop.versions import software
from selfalign.loop.watch import watched
from selfalign.proof.stats import LEAST
from selfalign.protocols import Context, Flags, Progress, declared
from selfalign.recipe import Recipe
from selfalign.record.checkpoints import write_synced
from selfalign.record.disk import reporting
from selfalign.record.exports import export_metrics
from selfalign.record.joined import joined
from selfalign.record.removed import Keep, remove_weights
from selfalign.record.review import waiting
from selfalign.record.store import Store
from selfalign.seeds.read import read_seeds
from selfalign.seeds.tables import Table
from selfalign.text import counted
from selfalign.types import Example, ModelRef, Pool, preferences

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The result of a run. `model` is the best round's; round 0 is the base model.

    Of a run that waits for a review (`Recipe.review`) it is what there is so far, and `stopped_because` says what it waits for.
    """

    folder: Path
    model: ModelRef
    best_round: int
    stopped_because: str

    @property
    def pairs(self) -> Any:
        """Seeds and kept samples as a pandas frame, see `frames.pairs`."""
        return frames.pairs(self.folder)

    @property
    def dropped(self) -> Any:
        """What was dropped, with rule and evidence, as a pandas frame."""
        return frames.dropped(self.folder)

    @property
    def metrics(self) -> Any:
        """The metrics of every round's model with their intervals, as a pandas frame."""
        return frames.metrics(self.folder)

    def dataset(self) -> Any:
        """Seeds and kept pairs that may be trained on, as a `datasets.Dataset`."""
        return frames.data_set(self.folder)

    def _repr_html_(self) -> str:
        return frames.html(self.folder)


def align(
    recipe: Recipe,
    model: str,
    seeds: Sequence[Example] | Table | str | Path,
    out: str | Path,
    *,
    held_out: Sequence[Example] | Table | str | Path = (),
    options: str = "",
    files: Sequence[Path] = (),
    progress: Progress | Literal["shown"] | None = "shown",
    keep: Keep = "last",
) -> Run:
    """Runs a recipe on a model, or goes on with the run that stands in `out`, also for more rounds than it had.

    Args:
        recipe: the slots and numbers; see `selfalign.recipes`.
        model: a local folder, a hub name, or `smollm2-135m` for the bundled one.
        seeds: the examples of the behaviour wanted (D0), as `read_seeds` gives them, or what it reads: a file, a data frame, a
            data set, a list of dictionaries.
        out: the run folder.
        held_out: prompts with reference responses for the recipe's evaluators, given like the seeds; never used to choose.
        options: the run's options as YAML, for `run.yaml` in the run folder.
        files: the file of your own that the recipe comes from. Its hash stands in the record: a run does not go on with another
            content.
        progress: is told of stages and batches. By default a bar on a terminal or in a notebook, else lines on standard error;
            None is silent.
        keep: whose whole weights stay, see `--keep_weights`: "last" those of the best and the newest round, and what further ones
            need; "best" the same without a round that was rolled back; or "all".

    Raises:
        UserError: options, seeds or model that cannot work, or a folder of another run; before a model loads.
        RunFailed: a run that cannot go on; its folder stays resumable.
    """
    with no_exit(f"recipe {recipe.name}"), on_screen() if progress == "shown" else nullcontext(progress or Quiet()) as told:
        shown, asked = _examples(seeds), _examples(held_out, response_required=False)
        return _align(recipe, model, shown, Path(out), asked, (options, files, keep), told)


def _examples(given: Sequence[Example] | Table | str | Path, *, response_required: bool = True) -> Sequence[Example]:
    if isinstance(given, Sequence) and not isinstance(given, str) and all(isinstance(each, Example) for each in given):
        return [each for each in given if isinstance(each, Example)]
    return read_seeds(cast(Table | str | Path, given), response_required=response_required)


def _align(
    recipe: Recipe,
    model: str,
    seeds: Sequence[Example],
    out: Path,
    held_out: Sequence[Example],
    source: tuple[str, Sequence[Path], Keep],
    progress: Progress,
) -> Run:
    options, files, keep = source
    chosen, first = recipe, prepared(recipe, model, seeds, held_out)
    recipe, base, shown, validation, held_out, asked = first
    if recipe.encoder != chosen.encoder:
        _log.warning("%s; the model's own hidden states are used instead", encoder_blind(chosen.encoder, seeds))
    if recipe.rounds * recipe.per_round and (unknown := spelled_out(recipe.engine, base, seeds)):
        _log.warning("%s", unknown)
    vectors = RunVectors(recipe.encoder, asked)
    identity, made_with = run_identity(recipe, base, seeds, held_out), software(recipe, files)
    with Store.open(out, identity, made_with) as store, reporting(store.folder), watched(progress, recipe, store) as watch:
        if options:
            write_synced(store.folder / "run.yaml", options.encode())
        if waits := waited_for(store):  # before a model loads: nothing else can be done
            best = (waiting(store) or 1) - 1 if recipe.trains else 0  # a round that is rolled back ends a run
            return Run(store.folder, store.model(best), best, waits)
        costs = plan_text(plan(recipe, base, len(held_out), len(validation), shown))
        if costs and store.state().get("state") != "done":
            watch.say(costs)
        with no_exit(f"recipe {recipe.name}"):  # here too, so that the record says why
            later = later_rounds(chosen, model, seeds, first, joined(store))
            return _rounds(Setup(recipe, store, base, shown, validation, held_out, asked, vectors, watch, keep, later))


def run_identity(recipe: Recipe, start: ModelRef, seeds: Sequence[Example], held_out: Sequence[Example]) -> dict[str, Any]:
    """What must be equal to go on with a run: the recipe's options and the content of model and examples."""
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
            _remove_weights(run, round, verdict)
            if not verdict.go_on or round == recipe.rounds or (used := _used_up(recipe, round + 1)):
                break
            if not (joins := run.joining(round + 1)):
                kept, alarm, waits = _next_examples(run, context(round + 1), pool)
        if joins:
            run, pool = grown(run, pool, round + 1)
            with opened(run, model, pool) as context:
                verify_weights(run, context(round), round - 1)
                try_rules(run, context(round + 1))
                kept, alarm, waits = _next_examples(run, context(round + 1), pool)
        if waits:
            return Run(store.folder, verdict.best.model, verdict.best.round, waits)
        if stop := "; ".join(filter(None, (_too_few_kept(run, round + 1, kept), alarm))):
            export_metrics(store, round + 1)
            break
        pool = pool.add(kept)
        if recipe.trains:
            model = train(run, round + 1, model, pool)
        elif store.verified_model(round + 1) is None:
            store.add_model(round + 1, model)
    assert verdict is not None  # round 0 has one
    best, point = aimed(run, verdict.best, pool)
    _evaluate_best(run, best, pool, served_last=verdict.best.round if point else round)
    if not verdict.go_on:
        _conclude_rolled_back(run, round, verdict)
    check_turns(run)
    if not stop:
        done = (used or _all_done(recipe), verdict.text, _unchecked(run))
        stop = "; ".join(filter(None, done)) if verdict.go_on else verdict.text
    stop = "; ".join(filter(None, (stop, _not_ended(recipe, verdict.best.round), point)))
    store.finish_run(best.round, stop)
    return Run(store.folder, best.model, best.round, stop)


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
    warnings = seed_warnings(recipe, run.base, run.shown, run.validation, run.held_out)
    for text in (*warnings, replay_warning(recipe, run.shown)):
        if text and all(data.get("text") != text for _, _, data in store.events()):
            _log.warning("%s", text)
            store.event("evaluation", {"text": text})
    _record_method(run)
    store.add_seeds(run.shown, run.validation)
    store.add_model(0, run.base)


def _record_method(run: Setup) -> None:
    """What is trained and why, once; said aloud where it is not all weights, or does not fit."""
    if any(kind == "trainer" for _, kind, _ in run.store.events()):
        return
    seeds = (*run.shown, *run.validation)
    budgets = measure(run.recipe.engine, run.base, seeds)
    if (choice := method_choice(run.recipe, run.base, seeds, budgets.prompt, budgets.response)) is None:
        if text := unknown_memory(run.recipe, run.base):
            _log.warning("%s", text)
        return
    found = choice.plain()
    run.store.event("trainer", found)
    if warnings := list(memory_warnings(found)):
        _log.warning("%s", warnings[0])
    elif found["method"] != "full":
        _log.warning("%s", found["text"])


def _measure(run: Setup, context: Context, pool: Pool, model: ModelRef, last: Verdict | None) -> Verdict:
    """What the round's model is worth; where nothing is trained, the verdict of round 0 stands for all."""
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


def _remove_weights(run: Setup, before: int, verdict: Verdict) -> None:
    if run.keep != "all" and run.recipe.trains:
        reference = {1} if declared(run.recipe.trainer, Flags).warms_up else set[int]()
        remove_weights(run.store, before, {verdict.best.round, verdict.highest.round, *reference})


def _conclude_rolled_back(run: Setup, round: int, verdict: Verdict) -> None:
    """A round that was rolled back ends the run, whatever its number of rounds: no other will start from it."""
    if run.keep == "best":
        _remove_weights(run, round + 1, verdict)
    if round < run.recipe.rounds and any(kind == "rounds" for _, kind, _ in run.store.events()):
        _log.warning(
            "no round follows round %d, which was rolled back: begin a new run, with more seeds in its file or a smaller"
            " --trainer.learning_rate",
            round,
        )


def _next_examples(run: Setup, context: Context, pool: Pool) -> tuple[tuple[Example, ...], str, str]:
    """(what the round trains on besides the seeds, why the run must stop, what it waits for); "" for no reason."""
    calibrate_judges(run, context)
    generate(run, context, pool)
    if run.recipe.candidates(context.round) and (waits := reviewed(run, context)):
        return (), "", waits
    return run.store.kept(context.round), check_training_data(run, context, pool), ""


def _too_few_kept(run: Setup, round: int, kept: Sequence[Example]) -> str:
    recipe, made = run.recipe, run.recipe.candidates(round)
    first, least = sum(example.slot < made for example in kept), max(1.0, recipe.min_yield * made)
    if not made or first >= least:
        known = (*(run.shown if recipe.learns_seeds(round) else ()), *kept)
        alone = made and declared(recipe.trainer, Flags).preferences and not preferences(known)
        return f"round {round} kept no answer to be rejected: it has no pair to learn a preference from" if alone else ""
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
    """Why a round finds no candidates; "" where it has some, or needs none."""
    given = recipe.given
    if given is None or round < given.from_round or round == recipe.seeds_round or any(given.split(round, recipe.per_round)):
        return ""
    return f"round {round} finds no given prompt left; --prompts_share below 1 lets the model write its own"


def _all_done(recipe: Recipe) -> str:
    done = {0: "no rounds to run", 1: "the one round is done"}.get(recipe.rounds, f"all {recipe.rounds} rounds done")
    return done if recipe.trains or not recipe.rounds else f"{done}; nothing was trained"


def _not_ended(recipe: Recipe, best: int) -> str:
    """That the shipped model never learned the seeds' own answers, where only the last round teaches them; else ""."""
    if recipe.train_seeds != "last" or best == recipe.seeds_round:
        return ""
    return f"round {best} has not learned the seeds' own answers, which round {recipe.seeds_round} teaches (train_seeds = last)"


def _unchecked(run: Setup) -> str:
    """That too few validation seeds were there to choose a round; "" where one was chosen, or nothing is trained."""
    if not run.recipe.rounds or not run.recipe.trains or len(run.validation) >= LEAST:
        return ""
    seeds = counted(len(run.validation), "validation seed")
    return f"the newest round is shipped unchecked: {seeds}, and {LEAST} are needed to choose one"
