"""A study: a recipe and its baselines over several random seeds, and what follows from the figures.

Every arm on every random seed is an ordinary run folder, `OUT/ARM/seed-S`. A finished one is only read back.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from selfalign.errors import RunFailed, UserError, reason
from selfalign.loop.adopt import adopt_answers, measures_the_same
from selfalign.loop.align import align
from selfalign.loop.preflight import said_once, unknown_metric
from selfalign.loop.progress import Quiet, say
from selfalign.models.device import empty_cache
from selfalign.proof.curve import Size, add_curve
from selfalign.proof.kept import on_common_questions
from selfalign.proof.unfinished import unfinished
from selfalign.proof.verdicts import SEEDS, conclude, no_such_metric
from selfalign.protocols import Progress
from selfalign.recipes.evaluations import learned_judges
from selfalign.record.checkpoints import write_synced
from selfalign.record.finished import Finished, read_run
from selfalign.record.lock import wait_until_free
from selfalign.record.removed import Keep
from selfalign.record.store import Store
from selfalign.study.ready import Arm, check, check_arms, with_one_yardstick
from selfalign.study.units import (
    check_begun,
    has_work,
    identity_of,
    is_done,
    is_finished,
    match_steps,
    standard_of,
    units,
    write_plan,
)
from selfalign.text import counted
from selfalign.tracking.figures import reporting
from selfalign.types import Example

_log = logging.getLogger(__name__)

DECIDED = ("method", "lora_rank", "learning_rate", "gradient_checkpointing")
"""Fields of a trainer that the memory of the machine decides, where they are left to it."""
OFTEN = 15
"""Times that the seeds are read, from which on steps taken over are many. 64 seeds in the loop's 66 steps are read ten times,
and learned from; 16 forty times, and general knowledge was lost that twelve steps kept (benchmarks/RESULTS.md)."""
LEAVING = 150.0
"""Seconds for which a run's folder may still be held by a process that ends, or by a lost machine's: a file server gives up the
locks of that after 90."""


@dataclass(frozen=True)
class Unit:
    """What a `Beside` needs to know of a run."""

    needs: frozenset[str]
    """The folders of the runs that must be finished before it."""
    trainer: Mapping[str, Any]
    """What this machine's memory decided of its trainer; another machine's could decide otherwise."""
    steps_of: str = ""
    """The one of them whose steps it takes: without that one it cannot begin, without the others it can."""


class Beside(Protocol):
    """Runs the runs of a study elsewhere, each into its folder (`Arm.run`)."""

    def plan(self, units: Mapping[str, Unit]) -> None:
        """Takes all runs, by their folders, in this order. The study's own folder exists by now."""

    def wait(self, folder: str) -> None:
        """Until this run is finished; others go on meanwhile. Raises what the run ended with, which it has said by then."""


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
        options: the study's options as YAML, for `OUT/study.yaml`: from the start.
        notes: what whoever reads the result has to know of the options; said before anything runs.
        beside: makes the runs elsewhere, several at a time; here they are only read back then.

    Raises:
        UserError: arms, options or a metric that cannot work, or a folder of another study.
        RunFailed: no arm finished on the first random seed; the study stays resumable. If only some runs fail they are listed
            under `failed`, and the same call goes on with them.
    """
    out = Path(out)
    if metric is not None and (wrong := unknown_metric(metric, arms[0].recipe.evaluators, held_out)):
        raise UserError(f"--metric {metric}: {arms[0].name} has {wrong}")
    held_out = check(arms, held_out, out, repeats)
    arms = with_one_yardstick(arms, held_out)
    check_arms(arms, held_out, first_seed)
    _warn(arms, held_out, repeats, notes)
    every = units(arms, first_seed, repeats)
    check_begun(every, held_out, out)
    out.mkdir(parents=True, exist_ok=True)
    if options:  # what is interrupted, or fails in part, is gone on with by it
        write_synced(out / "study.yaml", options.encode())
    write_plan(out, every)
    if beside is not None:
        beside.plan(needed(arms, held_out, first_seed, repeats))
    looks = sorted({*_looks(out), repeats})
    work = _Work(every, held_out, out, progress or Quiet(), tuple(trackers), tuple(files), keep, beside)
    go_on = f"`selfalign study --config {shlex.quote(str(out / 'study.yaml'))}`" if options else "the same call"
    found: dict[str, list[Finished]] = {arm.name: [] for arm in arms}
    failed: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    # All arms on one random seed before the next: a study that is stopped early has a whole table.
    for seed in range(first_seed, first_seed + repeats):
        for arm in (arm for arm, each in every if each == seed):
            _attempt(replace(arm, recipe=replace(arm.recipe, seed=seed)), found, failed, work)
            main = found[arm.name] if arm is arms[0] and metric is not None else ()
            if main and (wrong := no_such_metric(metric or "", main[-1].metrics)):
                raise UserError(f"--metric {metric}: {arm.name} has {wrong}")
        more = {"failed": failed, "go_on": go_on if failed else "", "looks": looks}
        if not any(found.values()):
            raise RunFailed(f"no arm finished on random seed {seed}: {'; '.join(unfinished(more))}")
        more["notes"] = [*notes, *_read_often(arms, found)]
        about = {"held_out": len(held_out), "random_seeds": list(range(first_seed, seed + 1)), "failed": failed}
        result = {**_concluded(arms, found, metric, **about), **more}
        write_synced(out / "study.json", (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return result


@dataclass(frozen=True)
class _Work:
    """What all runs of a study have in common."""

    every: Sequence[tuple[Arm, int]]
    held_out: Sequence[Example]
    out: Path
    progress: Progress
    trackers: Sequence[str]
    files: Sequence[Path]
    keep: Keep
    beside: Beside | None = None


def _attempt(arm: Arm, found: Mapping[str, list[Finished]], failed: list[dict[str, Any]], work: _Work) -> None:
    """Adds one run to `found`, or to `failed` with the reason, so that the other runs do not lose their hours.

    Raises:
        UserError: before any model has worked. Then it is about options, and the other arms would hardly do better.
    """
    seed, folder = arm.recipe.seed, arm.run(arm.recipe.seed)
    row = {"arm": arm.name, "seed": seed, "folder": folder}
    if arm.matched:
        standard = standard_of(arm, seed, work.every)
        if (main := next((run for run in found[arm.matched] if run.folder == standard), None)) is None:
            failed.append({**row, "reason": f"not begun, as it takes the steps of {arm.matched}, which did not finish"})
            return
        arm = replace(arm, recipe=match_steps(arm.recipe, main))
    try:
        if work.beside is not None:
            work.beside.wait(folder)
        found[arm.name].append(_run(arm, [run.folder for runs in found.values() for run in runs], work))
        return
    except Exception as error:
        if not isinstance(error, RunFailed) and not has_work(work.out):
            raise
        why = reason(error).removeprefix(f"{_where(arm)}: ")
        if not isinstance(error, (UserError, RunFailed)) and all(each["reason"] != why for each in failed):
            _log.warning("%s", "".join(traceback.format_exception(error)).rstrip())
        if work.beside is None:  # which has said so when it happened
            _log.warning("%s: %s; the other runs go on", _where(arm), why)
        failed.append({**row, "reason": why})
    if "torch" in sys.modules:  # what it held is free only now that its traceback is gone
        empty_cache()


def _read_often(arms: Sequence[Arm], found: Mapping[str, Sequence[Finished]]) -> Iterator[str]:
    """Which arms read the seeds too often in another arm's steps: a loop of 8 or 16 seeds has steps for all that it wrote."""
    for arm in (arm for arm in arms if arm.matched and not arm.recipe.per_round):
        shown = len(arm.seeds) * (1 - arm.recipe.validation_share)
        batch = getattr(arm.recipe.trainer, "batch_size", 0)  # as `trainers.SFT` has it
        often = max((sum(run.steps) * batch / shown for run in found[arm.name]), default=0.0)
        if often > OFTEN:
            taken = f"{arm.name} read its seeds about {often:.0f} times, as it takes as many steps as {arm.matched}"
            yield f"{taken}: fewer may do better, so compare with `selfalign run {arm.recipe.name}` by itself too"


def _warn(arms: Sequence[Arm], held_out: Sequence[Example], repeats: int, notes: Sequence[str]) -> None:
    """Warns of what a reader of the study must know, before it costs anything."""
    for note in notes:
        _log.warning("%s", note)
    if repeats < SEEDS and any(arm.recipe.rounds for arm in arms):
        few = counted(repeats, "random seed")
        _log.warning("%s: the verdicts will say nothing about another training; take --repeats %d or more", few, SEEDS)
    if learned_judges(arms[0].recipe, arms[0].seeds, held_out) and any(arm.seeds != arms[0].seeds for arm in arms):
        own = "refusal, over_refusal and balance are judged by each arm's own seeds: with other seeds by another yardstick"
        _log.warning("%s; take --metric log_likelihood, or declare a check by --expect", own)


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
    _run(replace(arm, recipe=recipe), earlier, _Work(every, held_out, out, progress or Quiet(), trackers, files, keep))


def needed(arms: Sequence[Arm], held_out: Sequence[Example], first_seed: int, repeats: int) -> dict[str, Unit]:
    """Every run of a study, by its folder, with those that must be finished before it.

    Those are the one whose steps it takes, and one that measures the base model for all that are measured alike: the cheapest,
    which trains nothing where there is such an arm.
    """
    every = units(arms, first_seed, repeats)
    known = {arm.name: identity_of(arm, held_out) for arm in arms}
    found: dict[str, Unit] = {}
    for arm, seed in every:
        alike = [other for other in arms if measures_the_same(known[arm.name], known[other.name])]
        first = min(alike, key=lambda other: other.recipe.rounds > 0, default=arm)
        steps_of = standard_of(arm, seed, every) if arm.matched else ""
        needs = {first.run(first_seed), steps_of} - {arm.run(seed), ""}
        trainer = known[arm.name]["trainer"]
        decided = {name: trainer[name] for name in DECIDED if name in trainer}
        found[arm.run(seed)] = Unit(frozenset(needs), decided, steps_of)
    return found


def _concluded(arms: Sequence[Arm], found: Mapping[str, Sequence[Finished]], metric: str | None, **about: Any) -> dict[str, Any]:
    """What `conclude` says of the arms with all the seeds, and the learning curve where there is one."""
    about["shortcuts"] = next(run.shortcuts for runs in found.values() for run in runs)  # of the main arm, where it finished
    found = on_common_questions(found)
    result = conclude({arm.name: found[arm.name] for arm in arms if not arm.point_of}, metric, **about)
    sizes = [Size(arm.point_of, len(arm.seeds), arm.name) for arm in arms if arm.point_of]
    return add_curve(result, found, sizes, len(arms[0].seeds), about["failed"]) if sizes and found[arms[0].name] else result


def _looks(out: Path) -> list[int]:
    """After how many random seeds this study gave verdicts before; see `verdicts.looked_at`."""
    try:
        study = json.loads((out / "study.json").read_text(encoding="utf-8"))
        return sorted({int(each) for each in study.get("looks", [len(study["random_seeds"])])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _run(arm: Arm, earlier: Sequence[str], work: _Work) -> Finished:
    recipe, folder, out = arm.recipe, arm.run(arm.recipe.seed), work.out
    try:
        identity = identity_of(arm, work.held_out)
        named = _Named(work.progress, f"{arm.name}, seed {recipe.seed}, ")
        with reporting(out / folder, work.trackers, named, name=f"{out.resolve().name}/{folder}") as watched:
            if not is_finished(out / folder, identity):
                _adopt(out, folder, identity, earlier, {example.id for example in arm.seeds})
                given: Any = {"held_out": work.held_out, "files": work.files, "keep": work.keep}
                align(recipe, arm.model, arm.seeds, out / folder, progress=watched, **given)
    except (UserError, RunFailed) as error:
        raise type(error)(f"{_where(arm)}: {error}") from error
    except Exception as error:  # of a part of the user's own
        error.add_note(f"in {_where(arm)}; the same command goes on from here")
        raise
    return read_run(out, folder, recipe.seed, work.held_out)


def _where(arm: Arm) -> str:
    return f"arm {arm.name}, random seed {arm.recipe.seed}"


def _adopt(out: Path, folder: str, identity: dict[str, Any], earlier: Sequence[str], seeds: set[str]) -> None:
    """Gives a new run the base model's answers, where an earlier run of the study, by its folder, has them."""
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
