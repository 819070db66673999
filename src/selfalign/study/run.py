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
from selfalign.loop.progress import Quiet, Renamed
from selfalign.models.device import empty_cache
from selfalign.proof.curve import Size, add_curve
from selfalign.proof.kept import on_common_questions
from selfalign.proof.unfinished import unfinished
from selfalign.proof.verdicts import SEEDS, conclude, no_such_metric
from selfalign.recipes.evaluations import learned_judges
from selfalign.record.checkpoints import write_synced
from selfalign.record.finished import Finished, read_run
from selfalign.record.lock import wait_until_free
from selfalign.record.store import Store
from selfalign.study.ready import Arm, Study, check_arms, checked
from selfalign.study.units import check_begun, has_work, identity_of, is_done, is_finished, match_steps, with_steps, write_plan
from selfalign.text import counted
from selfalign.tracking.figures import reporting

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
    study: Study, *, metric: str | None = None, options: str = "", notes: Sequence[str] = (), beside: Beside | None = None
) -> dict[str, Any]:
    """Runs what is not finished of a study, compares after each random seed, and writes `OUT/study.json`, which it also returns.

    Args:
        metric: what the verdicts are about; without it the first of `verdicts.PREFERRED` that all arms have.
        options: the study's options as YAML, for `OUT/study.yaml`: from the start.
        notes: what whoever reads the result has to know of the options; said before anything runs.
        beside: makes the runs elsewhere, several at a time; here they are only read back then.

    Raises:
        UserError: arms, options or a metric that cannot work, or a folder of another study.
        RunFailed: no arm finished on the first random seed; the study stays resumable. If only some runs fail they are listed
            under `failed`, and the same call goes on with them.
    """
    main, out = study.arms[0], study.out
    if metric is not None and (wrong := unknown_metric(metric, main.recipe.evaluators, study.held_out)):
        raise UserError(f"--metric {metric}: {main.name} has {wrong}")
    study = _begun(study, options, notes)
    if beside is not None:
        beside.plan(needed(study))
    go_on = f"`selfalign study --config {shlex.quote(str(out / 'study.yaml'))}`" if options else "the same call"
    looks = sorted({*_looks(out), study.repeats})
    found: dict[str, list[Finished]] = {arm.name: [] for arm in study.arms}
    failed: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    # All arms on one random seed before the next: a study that is stopped early has a whole table.
    for seed in study.seeds:
        for run in (run for run in study.runs if run.recipe.seed == seed):
            _attempt(run, found, failed, study, beside)
            own = found[main.name] if run.name == main.name else []
            if metric and own and (wrong := no_such_metric(metric, own[-1].metrics)):
                raise UserError(f"--metric {metric}: {run.name} has {wrong}")
        more = {"failed": failed, "go_on": go_on if failed else "", "looks": looks}
        if not any(found.values()):
            raise RunFailed(f"no arm finished on random seed {seed}: {'; '.join(unfinished(more))}")
        more["notes"] = [*notes, *_read_often(study.arms, found)]
        about = {"held_out": len(study.held_out), "random_seeds": [*range(study.seeds[0], seed + 1)], "failed": failed}
        result = {**_concluded(study.arms, found, metric, **about), **more}
        write_synced(out / "study.json", (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
    return result


def _begun(study: Study, options: str, notes: Sequence[str]) -> Study:
    study = checked(study)
    check_arms(study)
    _warn(study, notes)
    check_begun(study)
    study.out.mkdir(parents=True, exist_ok=True)
    if options:  # what is interrupted, or fails in part, is gone on with by it
        write_synced(study.out / "study.yaml", options.encode())
    write_plan(study)
    return study


def _attempt(
    run: Arm, found: Mapping[str, list[Finished]], failed: list[dict[str, Any]], study: Study, beside: Beside | None
) -> None:
    """Adds one run to `found`, or to `failed` with the reason, so that the other runs do not lose their hours. Raises UserError:
    before any model has worked. Then it is about options, and the other arms would hardly do better."""
    row = {"arm": run.name, "seed": run.recipe.seed, "folder": run.run}
    if run.matched:
        standard = study.standard(run)
        if (main := next((each for each in found[run.matched] if each.folder == standard), None)) is None:
            failed.append({**row, "reason": f"not begun, as it takes the steps of {run.matched}, which did not finish"})
            return
        run = replace(run, recipe=match_steps(run.recipe, main))
    try:
        if beside is not None:
            beside.wait(run.run)
        found[run.name].append(_run(run, [each.folder for runs in found.values() for each in runs], study))
        return
    except Exception as error:
        if not isinstance(error, RunFailed) and not has_work(study.out):
            raise
        why = reason(error).removeprefix(f"{_where(run)}: ")
        if not isinstance(error, (UserError, RunFailed)) and all(each["reason"] != why for each in failed):
            _log.warning("%s", "".join(traceback.format_exception(error)).rstrip())
        if beside is None:  # which has said so when it happened
            _log.warning("%s: %s; the other runs go on", _where(run), why)
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


def _warn(study: Study, notes: Sequence[str]) -> None:
    """Warns of what a reader of the study must know, before it costs anything."""
    main = study.arms[0]
    for note in notes:
        _log.warning("%s", note)
    if study.repeats < SEEDS and any(arm.recipe.rounds for arm in study.arms):
        few = counted(study.repeats, "random seed")
        _log.warning("%s: the verdicts will say nothing about another training; take --repeats %d or more", few, SEEDS)
    if learned_judges(main.recipe, main.seeds, study.held_out) and any(arm.seeds != main.seeds for arm in study.arms):
        own = "refusal, over_refusal and balance are judged by each arm's own seeds: with other seeds by another yardstick"
        _log.warning("%s; take --metric log_likelihood, or declare a check by --expect", own)


@said_once()
def run_one(study: Study, folder: str, trainer: Mapping[str, Any] | None = None) -> None:
    """One run of a study, by its folder (`Arm.run`), with what those that are finished give it; see `run_study`.

    Another process that still holds the folder is waited for.

    Args:
        trainer: as `Unit.trainer`; without it memory decides here.
    """
    study = checked(study)
    run = next(each for each in study.runs if each.run == folder)
    if trainer:
        recipe = replace(run.recipe, trainer=replace(run.recipe.trainer, **trainer))  # type: ignore[type-var]
        run = replace(run, recipe=recipe)
    wait_until_free(study.out / folder, LEAVING)
    run = with_steps(study, run)
    _run(run, [each.run for each in study.runs if each.run != folder and is_done(study.out / each.run)], study)


def needed(study: Study) -> dict[str, Unit]:
    """Every run of a study, by its folder, with those that must be finished before it.

    Those are the one whose steps it takes, and one that measures the base model for all that are measured alike: the cheapest,
    which trains nothing where there is such an arm.
    """
    firsts = study.runs[: len(study.arms)]
    known = {arm.name: identity_of(arm, study.held_out) for arm in firsts}
    found: dict[str, Unit] = {}
    for run in study.runs:
        alike = [other for other in firsts if measures_the_same(known[run.name], known[other.name])]
        first = min(alike, key=lambda other: other.recipe.rounds > 0, default=run)
        steps_of = study.standard(run) if run.matched else ""
        trainer = known[run.name]["trainer"]
        decided = {name: trainer[name] for name in DECIDED if name in trainer}
        found[run.run] = Unit(frozenset({first.run, steps_of} - {run.run, ""}), decided, steps_of)
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


def _run(run: Arm, earlier: Sequence[str], study: Study) -> Finished:
    recipe, folder = run.recipe, study.out / run.run
    try:
        identity = identity_of(run, study.held_out)
        named = Renamed(study.progress or Quiet(), lambda text: f"{run.name}, seed {recipe.seed}, {text}")
        with reporting(folder, study.trackers, named, name=f"{study.out.resolve().name}/{run.run}") as watched:
            if not is_finished(folder, identity):
                _adopt(folder, identity, [study.out / each for each in earlier], {example.id for example in run.seeds})
                given: Any = {"held_out": study.held_out, "files": study.files, "keep": study.keep}
                align(recipe, run.model, run.seeds, folder, progress=watched, **given)
    except (UserError, RunFailed) as error:
        raise type(error)(f"{_where(run)}: {error}") from error
    except Exception as error:  # of a part of the user's own
        error.add_note(f"in {_where(run)}; the same command goes on from here")
        raise
    return read_run(study.out, run.run, recipe.seed, study.held_out)


def _where(run: Arm) -> str:
    return f"arm {run.name}, random seed {run.recipe.seed}"


def _adopt(folder: Path, identity: dict[str, Any], earlier: Sequence[Path], seeds: set[str]) -> None:
    """Gives a new run the base model's answers, where an earlier run of the study has them."""
    for run in earlier:
        with Store.read(run) as donor:
            if measures_the_same(identity, donor.identity()):
                folder.parent.mkdir(exist_ok=True)
                theirs = {seed.id for seed in (*donor.seeds(), *donor.validation_seeds())}  # another arm may have had others
                with Store.open(folder, identity) as store:
                    adopt_answers(store, donor, seeds | theirs)
                return
