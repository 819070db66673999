"""What `selfalign eval` measures and compares: models, rounds of runs, evaluations that are done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.errors import UserError
from selfalign.export.base import check_base
from selfalign.loop.preflight import brought
from selfalign.models.files import check_folder
from selfalign.models.names import BUNDLED
from selfalign.proof.overlap import overlap, systems_decide
from selfalign.recipe import Recipe
from selfalign.recipes.evaluations import bring_their_own
from selfalign.record.joined import since_round
from selfalign.record.model_rows import place
from selfalign.record.plain import difference, dumps
from selfalign.record.schema import NAME as RECORD
from selfalign.record.store import Store
from selfalign.text import counted
from selfalign.types import Example, ModelRef


@dataclass(frozen=True)
class Side:
    """One of the things compared: a model to measure, or an evaluation that is done."""

    name: str
    model: str = ""
    """What `align` takes."""
    folder: Path | None = None
    """The evaluation's folder, where it is done."""
    seeds: tuple[Example, ...] = ()
    """The seeds of the run that it is a round of."""
    trained_on: tuple[Example, ...] = ()
    """Seeds and kept samples of that run up to the model's round."""


def find_sides(model: str, round: int | None, compare: str | None) -> list[Side]:
    """Raises UserError: as `find_side`, or a comparison of something with itself."""
    sides = [find_side(model, round), *([] if compare is None else [find_side(compare)])]
    if sides[0].name in [other.name for other in sides[1:]]:
        raise UserError(f"--compare {compare}: that is {sides[0].name} itself")
    return sides


def find_side(name: str, round: int | None = None) -> Side:
    """What a name on the command line stands for: a run folder's best round (or `round`), a finished evaluation, or a model.

    A run folder in which nothing was to be trained is an evaluation: the arms `pretrained` and `icl_…` of a study are, too.

    Raises:
        UserError: a round that there is not, a run or an evaluation that is not done, damaged model files.
    """
    folder = Path(name).expanduser()
    try:
        recorded = (folder / RECORD).is_file()
    except OSError as error:  # longer than the file system allows, or not to be looked into
        raise UserError(f"{name[:80]}: {error.strerror}; name a model or a run folder") from None
    if not recorded:
        if round is not None:
            raise UserError(f"--round {round}: {name} is no run folder")
        return Side(name, model=name)
    with Store.read(folder) as store:
        best = store.state().get("best_round")
        if not store.identity().get("rounds"):
            if round is not None:
                raise UserError(f"--round {round}: {name} is an evaluation and has no rounds")
            if best is None:
                raise UserError(f"{name} is an evaluation that is not done: the command that began it goes on with it")
            return Side(name, folder=folder)
        chosen = best if round is None else round
        if chosen is None:
            raise UserError(f"{name}: the run is not done, its best round is not known yet; go on with it, or give --round K")
        model = store.model(chosen)
        if problems := store.model_problems(chosen):
            raise UserError(f"the model of round {chosen} is damaged: {problems[0]}; the same run command trains it again")
        check_base(store, chosen)
        seeds, since = (*store.seeds(), *store.validation_seeds()), since_round(store)
        kept = [example for each in range(1, chosen + 1) for example in store.kept(each)]
    if chosen == 0:  # the base model has seen none of them
        return Side(f"{name}, round 0", str(place(model)), None, seeds)
    seen = [seed for seed in seeds if since.get(seed.id, 0) <= chosen]
    return Side(f"{name}, round {chosen}", str(place(model)), None, seeds, (*seen, *kept))


def check_to_measure(
    sides: Sequence[Side], recipe: Recipe, seeds: Sequence[Example], held_out: Sequence[Example]
) -> dict[str, int]:
    """What can be known of the models before the first of them loads: on how many of the prompts, or nearly so, each one was
    trained, by its name.

    Raises:
        UserError: nothing to measure on, prompts that a model was trained on, a model that there is not.
    """
    # Those that are off are not in the recipe.
    if not held_out and not bring_their_own(recipe.evaluators):
        raise UserError(
            f"{_not_here(sides)}nothing to measure on: give --held_out FILE (prompts, if possible with reference responses),"
            " --held_out safe_helpful or in_scope for bundled ones, or an evaluator with data of its own (--truthfulness.file,"
            " --lm_eval.tasks)"
        )
    known: dict[str, int] = {}
    for side in sides:
        asked = (*held_out, *brought(recipe.evaluators, seeds or side.seeds)) if side.trained_on else ()
        hits = overlap(side.trained_on, asked, apart=systems_decide(side.seeds))
        known[side.name] = len({hit.held_out for hit in hits})
        same = [hit for hit in hits if hit.same]
        if same and not recipe.allow_overlap:
            raise UserError(
                f"held-out example {same[0].held_out} asks the same as {same[0].training}, which {side.name} was trained on"
                f" ({counted(len({hit.held_out for hit in same}), 'such prompt')}): take them out, or give --allow_overlap"
            )
        if side.folder is None and side is not sides[0]:  # the first one is checked by `align`, before anything loads
            recipe.engine.check(ModelRef(side.model), (*seeds, *held_out), recipe.format)
    return known


def _not_here(sides: Sequence[Side]) -> str:
    """Which name may be a mistyped folder, as the beginning of a sentence: one on the hub or a server looks the same.

    Raises:
        UserError: a folder that holds neither a model nor a run.
    """
    for side in (each for each in sides if each.folder is None and not each.seeds):
        folder = Path(side.model).expanduser()
        if folder.is_dir():
            check_folder(folder)
        elif side.model != BUNDLED:
            return f"there is no folder {side.model}, and if that is the name of a model, "
    return ""


def check_alike(sides: Sequence[Side], recipe: Recipe, held_out: Sequence[Example]) -> None:
    """Whether evaluations that are done used the prompts and evaluators of what they are compared with.

    An evaluator that is off in one of the two, since it has no file or model, gives no metric there to be compared.

    Raises:
        UserError: they did not, and the figures would differ for that.
    """
    from selfalign.loop.align import hash_examples

    wanted: Mapping[str, Any] | None = None
    if not all(side.folder for side in sides):
        wanted = {**json.loads(dumps(recipe.identity())), "held_out_hash": hash_examples(held_out)}
    for side in sides:
        if side.folder is None:
            continue
        with Store.read(side.folder) as store:
            measured = store.identity()
        wanted = wanted or measured
        if measured["held_out_hash"] != wanted["held_out_hash"]:
            raise UserError(f"{side.name} was measured on other held-out prompts: measure both on the same ones")
        ours, theirs = (
            [_decoding(part, sampling) for part in each["evaluators"] if "" not in (part.get("file"), part.get("classifier"))]
            for each, sampling in ((wanted, _at_most(wanted, measured)), (measured, measured["eval_sampling"]))
        )
        # A recipe may have several of a class: what the other side has just so is alike, wherever it stands.
        for one in (part for part in ours if part not in theirs):
            for other in (part for part in theirs if part not in ours and part["part"] == one["part"]):
                what = f"{one['part'].rpartition('.')[2]}.{difference(other, one)}"
                raise UserError(f"{side.name} was measured with {what}: measure both with the same options")


def _decoding(part: dict[str, Any], sampling: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluator's options, with the recipe's sampling if it has none itself."""
    return {**part, "sampling": part["sampling"] or sampling} if "sampling" in part else part


def _at_most(wanted: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """How answers are wanted; where their length is still to come from the prompts, it is that which these gave already."""
    sampling: dict[str, Any] = wanted["eval_sampling"]
    return {**sampling, "max_tokens": sampling["max_tokens"] or measured["eval_sampling"]["max_tokens"]}
