"""A study: a recipe and its baselines over several random seeds, and what follows from the figures.

Every arm on every random seed is an ordinary run folder, `OUT/ARM/seed-S`. A finished one is only read back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from selfalign.errors import RunFailed, UserError
from selfalign.loop.adopt import adopt_answers, measures_the_same
from selfalign.loop.align import align, run_identity
from selfalign.loop.budgets import settled
from selfalign.loop.preflight import no_such_metric, said_once, unknown_metric
from selfalign.loop.progress import Quiet, say
from selfalign.loop.shortcuts import audited
from selfalign.proof.curve import Size, add_curve
from selfalign.proof.verdicts import SEEDS, conclude
from selfalign.protocols import Progress
from selfalign.recipe import Recipe
from selfalign.recipes.evaluations import depends_on_seed, learned_judges
from selfalign.record.checkpoints import write_synced
from selfalign.record.finished import Finished, read_run
from selfalign.record.lock import wait_until_free
from selfalign.record.plain import difference, dumps, granted, in_words
from selfalign.record.removed import Keep
from selfalign.record.store import Store
from selfalign.study.ready import Arm, check, check_arms, with_one_yardstick
from selfalign.text import counted
from selfalign.tracking.figures import reporting
from selfalign.types import Example

_log = logging.getLogger(__name__)

DECIDED = ("method", "lora_rank", "learning_rate", "gradient_checkpointing")
"""Fields of a trainer that the memory of the machine decides, where they are left to it."""
LEAVING = 150.0
"""Seconds for which a run's folder may still be held by a process that ends, or by a lost machine's: a file server gives up the
locks of that after 90."""


@dataclass(frozen=True)
class Unit:
    """What whoever has a run of a study run elsewhere needs to know of it."""

    needs: frozenset[str]
    """The folders of the runs that must be finished before it."""
    trainer: Mapping[str, Any]
    """What memory decided here of its trainer, where it could decide otherwise."""


class Beside(Protocol):
    """Runs the runs of a study elsewhere, each into its folder (`Arm.run`)."""

    def plan(self, units: Mapping[str, Unit]) -> None:
        """What there is to run, by its folder, in this order; the study's folder is there."""

    def wait(self, folder: str) -> None:
        """Until this run is finished; others go on meanwhile. Raises what the run ended with."""


@said_once()
def run_study(
    arms: Sequence[Arm],
    held_out: Sequence[Example],
    out: str | Path,
    *,
    repeats: int = 3,
    first_seed: int = 0,
    metric: str | None = None,
    progress: Progress | None = None,
    trackers: Sequence[str] = (),
    files: Sequence[Path] = (),
    options: str = "",
    notes: Sequence[str] = (),
    keep: Keep = "last",
    beside: Beside | None = None,
) -> dict[str, Any]:
    """Runs what is not finished of a study, compares after each random seed, and writes `OUT/study.json`, which it also returns.

    Args:
        arms: the main one first.
        held_out: the prompts that every arm is measured on.
        out: the study's folder.
        repeats: random seeds `first_seed` … `first_seed + repeats - 1`. An arm on which they have no effect runs once.
        metric: what the verdicts are about; without it the first of `verdicts.PREFERRED` that all arms have.
        progress: hears of stages and batches, with arm and random seed before the stage's name.
        files: as for `align`.
        keep: as for `align`.
        trackers: where each run's figures go, as `check_trackers` gives them; finished runs are reported too.
        options: the study's options as YAML, for `OUT/study.yaml`: from the start, and anew at the end.
        notes: what whoever reads the result has to know of the options; said before anything runs.
        beside: runs what is read back then, several at a time.

    Raises:
        UserError: arms, options or a metric that cannot work, or a folder of another study.
        RunFailed: a run that cannot go on; the message names arm and random seed, and the study stays resumable.
    """
    out = Path(out)
    if metric is not None and (wrong := unknown_metric(metric, arms[0].recipe.evaluators, held_out)):
        raise UserError(f"--metric {metric}: {arms[0].name} has {wrong}")
    held_out = check(arms, held_out, out, repeats)
    arms = with_one_yardstick(arms, held_out)
    check_arms(arms, held_out, first_seed)
    for note in notes:
        _log.warning("%s", note)
    if repeats < SEEDS and any(arm.recipe.rounds for arm in arms):
        few = counted(repeats, "random seed")
        _log.warning("%s: the verdicts will say nothing about another training; take --repeats %d or more", few, SEEDS)
    if learned_judges(arms[0].recipe, arms[0].seeds, held_out) and any(arm.seeds != arms[0].seeds for arm in arms):
        own = "refusal, over_refusal and balance are judged by each arm's own seeds: with other seeds by another yardstick"
        _log.warning("%s; take --metric log_likelihood, or declare a check by --expect", own)
    out.mkdir(parents=True, exist_ok=True)
    if options and not (out / "study.yaml").exists():  # what was interrupted is gone on with by it
        write_synced(out / "study.yaml", options.encode())
    if beside is not None:
        beside.plan(needed(arms, held_out, first_seed, repeats))
    looks, shortcuts = _looks(out), audited(arms[0].recipe, arms[0].seeds, held_out)
    seeds = range(first_seed, first_seed + repeats)
    found: dict[str, list[Finished]] = {arm.name: [] for arm in arms}
    result: dict[str, Any] = {}
    # All arms on one random seed before the next: a study that is stopped early has a whole table.
    for position, seed in enumerate(seeds):
        for arm in arms:
            if position and not depends_on_seed(arm.recipe):
                continue
            recipe = replace(arm.recipe, seed=seed)
            if arm.matched:
                standard = found[arm.matched]
                recipe = match_steps(recipe, standard[min(position, len(standard) - 1)])
            earlier = [each.folder for runs in found.values() for each in runs]
            if beside is not None:
                beside.wait(arm.run(seed))
            run = _run(replace(arm, recipe=recipe), held_out, out, earlier, progress or Quiet(), trackers, (files, keep))
            found[arm.name].append(run)
            if arm is arms[0] and metric is not None and metric not in run.metrics:
                raise UserError(f"--metric {metric}: {arm.name} has {no_such_metric(metric, run.metrics)}")
        about = {"held_out": len(held_out), "random_seeds": list(seeds[: position + 1]), "shortcuts": shortcuts}
        result = _concluded(arms, found, metric, **about)
        result |= {"looks": sorted({*looks, repeats}), "notes": list(notes)}
        write_synced(out / "study.json", (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    if options:
        write_synced(out / "study.yaml", options.encode())
    return result


@said_once()
def run_one(
    arms: Sequence[Arm],
    held_out: Sequence[Example],
    out: Path,
    folder: str,
    *,
    repeats: int,
    first_seed: int,
    progress: Progress | None = None,
    trackers: Sequence[str] = (),
    files: Sequence[Path] = (),
    keep: Keep = "last",
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """One run of a study, by its folder (`Arm.run`), with what those that are finished give it; see `run_study`.

    Another process that still holds the folder is waited for.

    Args:
        trainer: as `Unit.trainer`; without it memory decides here.
    """
    held_out = check(arms, held_out, out, repeats)
    arms = with_one_yardstick(arms, held_out)
    every = units(arms, first_seed, repeats)
    arm, seed = next((arm, seed) for arm, seed in every if arm.run(seed) == folder)
    recipe = replace(arm.recipe, seed=seed)
    if trainer:
        recipe = replace(recipe, trainer=replace(recipe.trainer, **trainer))  # type: ignore[type-var]
    wait_until_free(out / folder, LEAVING)
    if arm.matched:
        standard = standard_of(arm, seed, every)
        recipe = match_steps(recipe, read_run(out, standard, seed, held_out))
    earlier = [other for other in (one.run(each) for one, each in every) if other != folder and is_done(out / other)]
    _run(replace(arm, recipe=recipe), held_out, out, earlier, progress or Quiet(), trackers, (files, keep))


def units(arms: Sequence[Arm], first_seed: int, repeats: int) -> list[tuple[Arm, int]]:
    """Every run of a study: all arms on one random seed before the next."""
    seeds = range(first_seed, first_seed + repeats)
    return [(arm, seed) for seed in seeds for arm in arms if seed == first_seed or depends_on_seed(arm.recipe)]


def standard_of(arm: Arm, seed: int, every: Sequence[tuple[Arm, int]]) -> str:
    """The folder of the run whose steps an arm takes on a random seed."""
    return [one.run(each) for one, each in every if one.name == arm.matched and each <= seed][-1]


def needed(arms: Sequence[Arm], held_out: Sequence[Example], first_seed: int, repeats: int) -> dict[str, Unit]:
    """Every run of a study, by its folder, with those that must be finished before it.

    Those are the one whose steps it takes, and one that measures the base model for all that are measured alike: the cheapest,
    which trains nothing where there is such an arm.
    """
    every = units(arms, first_seed, repeats)
    known = {arm.name: _identity(arm, held_out) for arm in arms}
    found: dict[str, Unit] = {}
    for arm, seed in every:
        alike = [other for other in arms if measures_the_same(known[arm.name], known[other.name])]
        first = min(alike, key=lambda other: other.recipe.rounds > 0, default=arm)
        needs = {first.run(first_seed), *([standard_of(arm, seed, every)] if arm.matched else [])} - {arm.run(seed)}
        trainer = known[arm.name]["trainer"]
        found[arm.run(seed)] = Unit(frozenset(needs), {name: trainer[name] for name in DECIDED if name in trainer})
    return found


def is_done(folder: Path) -> bool:
    """Whether a finished run stands there, whatever its options."""
    try:
        with Store.read(folder) as store:
            return bool(store.state().get("state") == "done")
    except UserError:
        return False


def _concluded(arms: Sequence[Arm], found: Mapping[str, Sequence[Finished]], metric: str | None, **about: Any) -> dict[str, Any]:
    """What `conclude` says of the arms with all the seeds, and the learning curve where there is one."""
    result = conclude({arm.name: found[arm.name] for arm in arms if not arm.point_of}, metric, **about)
    sizes = [Size(arm.point_of, len(arm.seeds), arm.name) for arm in arms if arm.point_of]
    return add_curve(result, found, sizes, len(arms[0].seeds)) if sizes else result


def _looks(out: Path) -> list[int]:
    """The numbers of random seeds after which this study gave its verdicts before: who looks and goes on finds too much."""
    try:
        study = json.loads((out / "study.json").read_text(encoding="utf-8"))
        return sorted({int(each) for each in study.get("looks", [len(study["random_seeds"])])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def match_steps(recipe: Recipe, main: Finished) -> Recipe:
    """The recipe with the optimiser steps of the main arm's run, round by round up to its best one.

    Where the main arm fell back on the base model, all it trained counts, and where it trained nothing the recipe trains as it
    does by itself: an arm that trains nothing could not show that plain training would have helped. A recipe of fewer rounds
    takes all of them in its own: cut into many short trainings, each with a warm-up and a decay, the same steps teach far less,
    and a baseline of another loss is not to suffer that.
    """
    steps = main.steps[: main.best_round if main.of_round is None else main.of_round] or main.steps
    if not steps:
        return recipe
    if recipe.rounds < len(steps):
        total = sum(steps)
        steps = tuple(total * (k + 1) // recipe.rounds - total * k // recipe.rounds for k in range(recipe.rounds))
    return replace(recipe, steps=steps, rounds=len(steps))


def _run(
    arm: Arm,
    held_out: Sequence[Example],
    out: Path,
    earlier: Sequence[str],
    progress: Progress,
    trackers: Sequence[str],
    source: tuple[Sequence[Path], Keep],
) -> Finished:
    recipe, seed, (files, keep) = arm.recipe, arm.recipe.seed, source
    folder = arm.run(seed)
    try:
        identity = _identity(arm, held_out)
        named = _Named(progress, f"{arm.name}, seed {seed}, ")
        with reporting(out / folder, trackers, named, name=f"{out.resolve().name}/{folder}") as watched:
            if not _finished(out / folder, identity):
                _adopt(out, folder, identity, earlier, {example.id for example in arm.seeds})
                place = out / folder
                align(recipe, arm.model, arm.seeds, place, held_out=held_out, files=files, progress=watched, keep=keep)
    except (UserError, RunFailed) as error:
        raise type(error)(f"arm {arm.name}, random seed {seed}: {error}") from error
    except Exception as error:  # of a part of the user's own
        error.add_note(f"in arm {arm.name}, random seed {seed}; the same command goes on from here")
        raise
    return read_run(out, folder, seed, held_out)


def _identity(arm: Arm, held_out: Sequence[Example]) -> dict[str, Any]:
    """What `align` writes into a run folder, as it is read back from one."""
    recipe, start = settled(arm.recipe, arm.model, arm.seeds, held_out)
    plain: dict[str, Any] = json.loads(dumps(run_identity(recipe, start, arm.seeds, held_out)))
    return plain


def _finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the run stands there, done, with the same options and permissions, seeds, prompts and model files.

    Raises:
        UserError: it was made with others; the first difference is named.
    """
    try:
        store = Store.read(folder)
    except UserError:  # nothing there, or nothing recorded yet; `align` says what is wrong with anything else
        return False
    with store:
        if store.state().get("state") != "done":
            return False
        known = store.identity()
        if change := difference(granted(known, identity), identity):
            raise UserError(f"{folder} was made with {in_words(change)}: use another --out, or the same options")
        return not difference(known, identity)  # it may have ended for want of what is permitted now


def _adopt(out: Path, folder: str, identity: dict[str, Any], earlier: Sequence[str], seeds: set[str]) -> None:
    """Spares a new run the answers of the base model where an earlier run of the study, by its folder, has them."""
    for run in earlier:
        with Store.read(out / run) as donor:
            if measures_the_same(identity, donor.identity()):
                (out / folder).parent.mkdir(exist_ok=True)
                theirs = {seed.id for seed in (*donor.seeds(), *donor.validation_seeds())}  # another arm may have had others
                with Store.open(out / folder, identity) as store:
                    adopt_answers(store, donor, seeds | theirs)
                return


class _Named:
    """Progress that says which arm and random seed it is about."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self.advance, self.finish = progress.advance, progress.finish

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._progress.start(self._name + stage, total, done)

    def say(self, text: str) -> None:
        say(self._progress, self._name + text)
