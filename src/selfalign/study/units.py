"""The runs that a study has, and what stands of them in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.loop.align import run_identity
from selfalign.loop.budgets import settled
from selfalign.recipe import Recipe
from selfalign.record.checkpoints import write_synced
from selfalign.record.finished import Finished, read_run
from selfalign.record.plain import difference, dumps, granted, in_words, raised
from selfalign.record.schema import NAME as RECORD
from selfalign.record.store import Store
from selfalign.study.ready import Arm, Study
from selfalign.types import Example

PLAN = "runs.json"
"""{"main", "runs": their folders}: how far a study is that has no table yet, nobody else can tell."""


def write_plan(study: Study) -> None:
    plan = {"main": study.arms[0].name, "runs": [run.run for run in study.runs]}
    write_synced(study.out / PLAN, (json.dumps(plan, indent=1, ensure_ascii=False) + "\n").encode())


def is_done(folder: Path) -> bool:
    """Whether a finished run stands there, whatever its options."""
    try:
        with Store.read(folder) as store:
            return bool(store.state().get("state") == "done")
    except UserError:
        return False


def has_work(out: Path) -> bool:
    """Whether any run of the study has something in its record that a model was paid for."""
    for record in out.glob(f"*/seed-*/{RECORD}"):
        try:
            with Store.read(record.parent) as store, store.snapshot() as connection:
                if connection.execute("SELECT count(*) FROM batches").fetchone()[0]:
                    return True
        except UserError:
            continue
    return False


def identity_of(arm: Arm, held_out: Sequence[Example]) -> dict[str, Any]:
    """What `align` writes into a run folder, as it is read back from one."""
    recipe, start = settled(arm.recipe, arm.model, arm.seeds, held_out)
    plain: dict[str, Any] = json.loads(dumps(run_identity(recipe, start, arm.seeds, held_out)))
    return plain


def is_finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether the run stands there, done, with the same options and permissions, seeds, prompts and model files. Raises
    UserError: what stands there, done or begun, was made with others; the first difference is named."""
    try:
        store = Store.read(folder)
    except UserError:  # nothing there, or nothing recorded yet; `align` says what is wrong with anything else
        return False
    with store:
        if not (known := store.identity()):
            return False
        done, allowed = store.state().get("state") == "done", granted(known, identity)
        if change := difference(allowed if done else raised(allowed, identity), identity):
            raise UserError(f"{folder} was made with {in_words(change)}: use another --out, or the same options")
        return done and not difference(known, identity)  # it may have ended for want of what is permitted now


def check_begun(study: Study) -> None:
    """Raises UserError: some run of the study, finished or not, was made with other options than it has now."""
    for run in (run for run in study.runs if (study.out / run.run / RECORD).exists()):
        if run.matched and not is_done(study.out / study.standard(run)):  # its steps are not known yet
            continue
        made = with_steps(study, run)
        try:
            is_finished(study.out / run.run, identity_of(made, study.held_out))
        except UserError as error:
            raise UserError(f"arm {run.name}, random seed {run.recipe.seed}: {error}") from error


def with_steps(study: Study, run: Arm) -> Arm:
    """The run with the steps of the one that it takes them from, which is finished; itself where it takes none."""
    if not run.matched:
        return run
    main = read_run(study.out, study.standard(run), run.recipe.seed, study.held_out)
    return replace(run, recipe=match_steps(run.recipe, main))


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
