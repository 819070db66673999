"""More seeds for the coming rounds of a run: checked as those of the start, then written into its record.

Our own choice: all of them are shown and trained on. The validation seeds stay those that were chosen at the start, or the rounds
before and after could not be compared.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from selfalign.encoders.checked import opened
from selfalign.errors import UserError
from selfalign.loop.align import run_identity
from selfalign.loop.growth import later_rounds
from selfalign.loop.parts import tried
from selfalign.loop.preflight import Prepared, check_brought, check_examples, check_parts, check_prompts, prepared, seeds_needed
from selfalign.loop.versions import software
from selfalign.proof.overlap import asked_by_both, systems_decide
from selfalign.proof.seed_rules import harmful
from selfalign.protocols import Flags, declared
from selfalign.recipe import Recipe
from selfalign.record.joined import begun, join, joined
from selfalign.record.plain import dumps
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Example

CHANGING = ("sampling", "proposer", "second_turns")
"""The options with token budgets that lineage tells of."""


@dataclass(frozen=True)
class Extended:
    """What came of it."""

    round: int
    """The first round that has the new seeds."""
    ids: tuple[str, ...]
    shown: int
    """Seeds shown and trained on from then on."""
    validation: int
    waits: bool
    """Whether the run has fewer rounds than that."""
    notes: tuple[str, ...]


def extend(
    recipe: Recipe,
    model: str,
    seeds: Sequence[Example],
    held_out: Sequence[Example],
    out: str | Path,
    more: Sequence[Example],
    files: Sequence[Path] = (),
) -> Extended:
    """Adds seeds to the run in `out`, from the first round that has nothing in the record yet.

    Args:
        recipe, model, seeds, held_out, files: those that the run was started with; the recipe may have more rounds.
        more: the new seeds; an id that is taken gets `more-` before it.

    Raises:
        UserError: no run, one that another process works on, that ended by itself or is an arm of a study; or seeds that cannot
            join it. The record is as it was.
    """
    out = Path(out)
    first = prepared(recipe, model, seeds, held_out)
    with Store.read(out) as store:
        _check_run(store, recipe)
        before, round = joined(store), begun(store) + 1
    known = (*seeds, *(seed for _, some in before for seed in some))
    new, notes = _with_own_ids(more, {example.id for example in (*known, *first.asked)})
    _check_seeds(recipe, first, known, new)
    later = later_rounds(recipe, model, seeds, first, [*before, (round, new)])[-1].recipe
    shown = (*first.shown, *known[len(seeds) :], *new)
    notes = (*notes, *_broken_rules(later, shown))
    was, now = (json.loads(dumps(each.identity())) for each in (first.recipe, later))
    identity, made_with = run_identity(first.recipe, first.base, seeds, first.held_out), software(first.recipe, files)
    with Store.open(out, identity, made_with) as store:
        round = begun(store) + 1
        join(store, new, round, {name: now[name] for name in CHANGING if now[name] != was[name]})
    return Extended(round, tuple(seed.id for seed in new), len(shown), len(first.validation), round > recipe.rounds, notes)


def _check_run(store: Store, recipe: Recipe) -> None:
    folder = store.folder
    study = folder.absolute().parent.parent
    if re.fullmatch(r"seed-\d+", folder.absolute().name) and any((study / f"study.{end}").exists() for end in ("yaml", "json")):
        raise UserError(f"{folder} is an arm of the study {study}, whose arms must have the same seeds; extend a run of its own")
    if not recipe.rounds:
        raise UserError(f"{folder}: this run has no rounds, so more seeds would change nothing; give --rounds, or start another")
    if store.stage(0, "seeds") is None:
        raise UserError(f"{folder}: nothing of this run is in the record yet; start it with all seeds in one file")
    state = store.state()
    if state.get("state") != "done":
        return
    why = "has chosen a point on its curve (aim_over_refusal)" if recipe.aim_over_refusal is not None else ""
    why = why or ("has ended with the seeds' own answers (train_seeds = last)" if recipe.train_seeds == "last" else "")
    if why:
        raise UserError(f"{folder}: the run {why}, so that no round can follow; begin a new one with all seeds in one file")
    with store.snapshot() as connection:
        last = connection.execute("SELECT max(round) FROM models").fetchone()[0]
    if last < store.identity()["rounds"] or (recipe.trains and state["best_round"] < last):
        anew = f"selfalign run RECIPE ALL.jsonl --config {shlex.quote(str(folder / 'run.yaml'))} --out NEW"
        raise UserError(
            f"{folder}: the run ended by itself ({state['stopped_because']}), and would again, as the record of that round stays;"
            f" begin a new one with old and new seeds in one file: `{anew}`"
        )


def _with_own_ids(more: Sequence[Example], taken: set[str]) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """The new seeds with ids that nothing else has, and what was done to them: files without ids all count from 1."""
    found, changed = list[Example](), list[tuple[str, str]]()
    for seed in more:
        id = seed.id
        while id in taken:
            id = f"more-{id}"
        taken = {*taken, id}
        changed += [(seed.id, id)] if id != seed.id else []
        found.append(replace(seed, id=id))
    if not changed:
        return tuple(found), ()
    return tuple(found), (f"{counted(len(changed), 'taken id')} got more- in front ({changed[0][0]} is {changed[0][1]})",)


def _check_seeds(recipe: Recipe, first: Prepared, known: Sequence[Example], new: Sequence[Example]) -> None:
    """As `prepared` checks those of the start, and that no new one is there already."""
    apart = systems_decide(known)
    if same := asked_by_both(new, known, apart=apart):
        more = f" ({len(same)} such seeds)" if len(same) > 1 else ""
        raise UserError(f"new seed {same[0][0].id} asks the same as {same[0][1].id}, which the run has{more}; take it out")
    began, held = [_beginning(seed) for seed in new], [_beginning(seed) for seed in first.validation]
    for one, other in asked_by_both(began, held, apart=apart)[:1]:
        raise UserError(f"new seed {one.id} is of the same conversation as {other.id}, which validates; take it out")
    whole = (*known, *new)
    check_examples(whole, first.held_out, recipe.allow_overlap, seeds_needed(recipe))
    shown = [seed for seed in whole if seed not in first.validation]
    check_parts(recipe, whole, first.held_out, shown)
    check_brought(recipe, shown)
    check_prompts(recipe, whole, first.asked)


def _beginning(seed: Example) -> Example:
    """With the first prompt of its conversation for its own."""
    return replace(seed, prompt=seed.history[0][0], history=()) if seed.history else seed


def _broken_rules(recipe: Recipe, shown: Sequence[Example]) -> Iterator[str]:
    """What the recipe's filters say of all the seeds by then, where that takes no model."""
    named = list(recipe.named_filters()) if recipe.per_round else []
    if not named or not declared(recipe.encoder, Flags).fixed:
        return
    with opened(recipe.encoder, None) as encode:  # type: ignore[arg-type]  # it asks no model
        texts = [each.text for each in harmful(tried(named, encode, shown))]
    if texts and not recipe.ignore_seed_rules:
        raise UserError(f"with the new seeds {'; '.join(texts)}; --ignore_seed_rules true goes on all the same")
    yield from texts
