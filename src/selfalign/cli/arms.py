"""The arms of a study from its options: the recipe, its baselines, its variants."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from selfalign.cli.beside import BESIDE
from selfalign.cli.load import load_recipe, read_examples
from selfalign.cli.options import by_itself, parse
from selfalign.cli.recipe_options import (
    ANY,
    PROMPTS,
    TRAINING,
    build,
    changed_fields,
    common,
    default_recipe,
    part_options,
    reports,
    writes_prompts,
)
from selfalign.errors import UserError
from selfalign.filters import Expected
from selfalign.protocols import Flags, declared
from selfalign.recipe import FILTERS, Recipe
from selfalign.recipes.evaluations import filtered_by
from selfalign.record.plain import portable
from selfalign.trainers import SFT
from selfalign.types import Example

METHOD = ("start_from", "train_on", "train_seeds", "seed_weight", "learning_rate_decay", "min_yield", "alarms", "steps")
"""Fields that say how a recipe trains and stops: a baseline takes them over only where they were changed for the main recipe."""
OWN = {
    "icl_random": ("demonstrations", "order"),
    "icl_knn": ("demonstrations", "order"),
    "one_shot": ("rounds", "per_round"),
    "sft_paper": ("rounds", "learning_rate_decay", "format"),
    "isara": ("start_from", "train_on"),
    "isheep": ("start_from", "train_on"),
    "self_instruct": ("demonstrations", "start_from", "train_on"),
    "self_guide": ("rounds", "demonstrations", "alarms", "start_from", "train_on"),
    "contrast": ("rounds", "proposer", "learning_rate_decay"),
    "self_distill": ("rounds", "demonstrations", "sampling", "train_on", "train_seeds", "seed_weight", "alarms"),
    "self_train": ("rounds", "sampling", "demonstrations", "start_from", "train_on", "train_seeds", "alarms"),
    "dpo": ("rounds", "sampling", "min_yield", "train_on", "train_seeds", "alarms"),
    "ditto": ("rounds", "per_round", "sampling", "min_yield", "start_from", "train_on", "train_seeds", "alarms"),
    "rest": ("min_yield", "start_from", "train_on", "learning_rate_decay", "alarms", "sampling"),
    "rest_em": ("min_yield", "alarms", "sampling", "samples", "start_from", "train_on", "train_seeds", "learning_rate_decay"),
}
"""Options that make a baseline what it is: they are not taken over from the recipe it is compared with."""
PUBLISHED = ("sft_paper", "isara_paper", "isheep_paper")
"""Baselines with the values of a paper: they take over the engine and the encoder, and a trainer only of another class."""
_NUMBER = re.compile(r"[+-]?\d+")
"""A value of `--vary seeds=…` that is a number of seeds to draw, and no file's name (`./8` is)."""
FIXED = (
    *("recipe", "out", "held_out", "seed", "baselines", "repeats", "vary", "metric", *BESIDE, "config", "help"),
    *("max_hours", "quiet", "keep_weights", "json", "report_to", "evaluate"),
    *("expect", "refusal", "truthfulness", "harmfulness", "win_rate", "lm_eval", "mt_bench", "code", "unsafe_run_code", "guard"),
)
"""Options of the study as a whole: all arms have to share them."""


def make_arms(
    make: Callable[..., Recipe], parser: ArgumentParser, options: Namespace, arguments: Sequence[str], seeds: tuple[Example, ...]
) -> list[Any]:
    """The recipe, its baselines, its variants; a value of `--vary` that an earlier arm has already makes none.

    Raises:
        UserError: a baseline or an option that does not exist (with the nearest one), a value of the wrong type.
    """
    from selfalign.study.ready import Arm

    main, names = build(make, parser, options), _names(options)
    arms = [Arm(main.name, main, options.model, seeds)]
    for recipe in _baselines(names, make, parser, options, main):
        seeds_alone = not recipe.per_round or declared(recipe.proposer, Flags).preferences  # what it generates it only rejects
        planned = recipe.name in PUBLISHED or declared(recipe.trainer, Flags).warms_up  # steps of its own, round by round
        matched = bool(recipe.rounds) and seeds_alone and not planned
        arms.append(Arm(recipe.name, recipe, options.model, seeds, matched=main.name if matched else ""))
    variants = _variants(options.vary)
    of_seeds = [value for option, value in variants if option == "seeds"]
    drawn = any(map(_NUMBER.fullmatch, of_seeds))
    for option, value in (each for each in variants if not (drawn and each[0] == "seeds")):
        changed = _parse_with(make, parser, arguments, option, value)
        others = read_examples(changed.seeds, options.held_out)[0] if option == "seeds" else seeds
        arm = Arm(f"{main.name}-{option}={_shown(value)}", build(make, parser, changed), changed.model, others)
        # What is no other text may be of other speed: engines and trainers that are equal show where they differ.
        if not any((repr(arm.recipe), arm.model, arm.seeds) == (repr(each.recipe), each.model, each.seeds) for each in arms):
            arms.append(arm)
    return [*arms, *_learning_curve(arms, _sizes(of_seeds, len(seeds)))] if drawn else arms


def _learning_curve(arms: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """For each size the recipe on so many of its seeds and, where `sft` is among the baselines, sft on the same ones, trained
    for as many steps as that."""
    from selfalign.study.subsets import nested

    main, *others = arms
    made = []
    for size in sizes:
        seeds = nested(main.seeds, size, main.recipe.seed)
        made.append(replace(main, name=f"{main.name}-seeds={size}", seeds=seeds, point_of=main.name))
        on_the_same = {"name": f"sft-seeds={size}", "seeds": seeds, "matched": made[-1].name}
        made += [replace(arm, **on_the_same, point_of=arm.name) for arm in others if arm.name == "sft"]
    return made


def _sizes(values: Sequence[str], whole: int) -> list[int]:
    """The numbers of seeds to draw, ascending; that of all seeds is the main arm's already."""
    shown = f"--vary seeds={','.join(values)}"
    if files := [value for value in values if not _NUMBER.fullmatch(value)]:
        raise UserError(f"{shown}: numbers and names of files ({files[0]}) in one study; give one of the two")
    numbers = sorted({int(value) for value in values})
    if wrong := [number for number in numbers if not 2 <= number <= whole]:
        raise UserError(f"{shown}: {wrong[0]} of the {whole} seeds cannot be drawn; give numbers from 2 to {whole}")
    if numbers == [whole]:
        raise UserError(f"{shown}: these are all the seeds; give smaller numbers too")
    return [number for number in numbers if number < whole]


def _names(options: Namespace) -> list[str]:
    return [name for each in options.baselines.split(",") if (name := each.strip())]


def _baselines(
    names: Sequence[str], make: Callable[..., Recipe], parser: ArgumentParser, options: Namespace, main: Recipe
) -> list[Recipe]:
    with reports():
        made = parser.instantiate(options)
    given = {name: value for name, value in made.items() if name in (PROMPTS, *inspect.signature(make).parameters)}
    return [_baseline(load_recipe(name), given, main, default_recipe(make)) for name in names]


def notes(make: Callable[..., Recipe], parser: ArgumentParser, options: Namespace, arms: Sequence[Any]) -> list[str]:
    """What to know of the arms before they run: what is varied and yet no arm, and what baselines do not take."""
    names, main = {arm.name for arm in arms}, arms[0].name
    varied = [(option, value) for option, value in _variants(options.vary) if option != "seeds"]
    gone = [f"{option}={value}" for option, value in varied if f"{main}-{option}={_shown(value)}" not in names]
    return [f"--vary {each}: an arm of the study has it already" for each in gone] + _not_taken(make, parser, options)


def _shown(value: str) -> str:
    """A varied value as it stands in every table and page of the study."""
    text: str = portable(value)
    return text.removeprefix("…/")


def _not_taken(make: Callable[..., Recipe], parser: ArgumentParser, options: Namespace) -> list[str]:
    """Options of the main recipe that a baseline is the same without, though it could have them, in lines; `replay` always:
    an arm without it may forget more, and one that trains nothing forgets nothing.

    Found by taking each back: no list of what an arm takes would stay true.
    """
    main, names, defaults = build(make, parser, options), _names(options), parser.get_defaults()
    recipes = _baselines(names, make, parser, options, main)
    differing = [each.dest for each in parser._actions if options.get(each.dest) != defaults.get(each.dest)]
    found: dict[str, list[str]] = {}
    for option in differing:
        if option in ("seed", "recipe", "seeds", "model", *FIXED) or any(each.startswith(f"{option}.") for each in differing):
            continue
        without = options.clone()
        for name in (each for each in differing if each == option or each.startswith(f"{option}_")):  # its file, its share
            without[name] = defaults[name]
        try:
            plain = build(make, parser, without)
            others = _baselines(names, make, parser, without, plain) if repr(plain) != repr(main) else []
        except UserError:  # another option needs it
            continue
        reasons: dict[str, list[str]] = {}
        for recipe in (recipe for recipe, other in zip(recipes, others, strict=False) if repr(recipe) == repr(other)):
            if _has_it(recipe, main, default_recipe(make), option.partition(".")[0]):
                continue
            reasons.setdefault(_why_not(recipe, option), []).append(recipe.name)
        if text := ", ".join(f"{', '.join(arms)} ({why})" for why, arms in reasons.items() if why):
            found.setdefault(text, []).append(f"--{option}")
    return [f"{', '.join(given)}: not taken by {text}" for text, given in found.items()]


def _has_it(recipe: Recipe, main: Recipe, untouched: Recipe, slot: str) -> bool:
    """Whether a baseline has of itself what was changed in a field of the main recipe."""
    part, wanted, before = (getattr(each, slot, None) for each in (recipe, main, untouched))
    if is_dataclass(part) and type(part) is type(wanted) is type(before):
        return all(getattr(part, name) == value for name, value in changed_fields(before, wanted).items() if name != "loss")
    return part is not None and part == wanted


def _why_not(recipe: Recipe, option: str) -> str:
    """Why a baseline does not take an option; "" where it is about what the baseline does not do."""
    slot, general = option.partition(".")[0], option.startswith("replay")
    if slot in OWN.get(recipe.name, ()):
        return "it keeps its own"
    if not recipe.rounds:
        return "nothing is trained" if general else ""
    if slot.startswith("ignore_") or not (recipe.per_round or general or slot in (*ANY, *TRAINING)):
        return ""
    if recipe.name in PUBLISHED:
        return "it has a paper's values"
    if general:
        return "it learns from pairs alone"
    return "it keeps its own" if slot in common(recipe) else ""


def _baseline(make: Callable[..., Recipe], given: Mapping[str, Any], main: Recipe, untouched: Recipe) -> Recipe:
    """A baseline with what it takes over from the main recipe: the function's options that both have, and the fields of every
    recipe, those of its method only where they were changed; what was changed of filters and of how prompts are written that
    both have; nothing that makes the baseline what it is. To its method belong the trainer and the number of rounds where the
    two minimise different losses.

    One yardstick: all arms are measured in the same way, on the same prompts.
    """
    name = getattr(make, "__name__", "")
    own = OWN.get(name, ())
    parameters = inspect.signature(make).parameters
    recipe = make(**{key: value for key, value in given.items() if key in parameters and key not in own})
    taken = {key: getattr(main, key) for key in common(recipe) if key not in own and key not in parameters}
    other_loss = not _same_loss(main.trainer, recipe.trainer)
    method = (*METHOD, "rounds", "per_round") if other_loss else METHOD
    taken = {key: value for key, value in taken.items() if key not in method or value != getattr(untouched, key)}
    if name in PUBLISHED:
        kept = {"engine", "encoder", "seed", *(() if type(main.trainer) is type(recipe.trainer) else ("trainer",))}
        taken = {key: value for key, value in taken.items() if key in kept}
    if name == "one_shot":
        taken["per_round"] = max(1, main.rounds) * main.per_round
    if not main.per_round:
        taken.pop("per_round", None)
    if other_loss and not recipe.per_round:
        taken.pop("rounds", None)  # it takes steps in rounds of its own (`match_steps`)
    if "trainer" in taken:
        taken["trainer"] = _with_own_loss(main.trainer, recipe.trainer, untouched.trainer) if other_loss else main.trainer
    yardstick = ("evaluators", "eval_sampling", "evaluate", "allow_overlap", "allow_other_versions")
    made = replace(recipe, **{**taken, **{key: getattr(main, key) for key in yardstick}, "steps": ()})
    if name not in PUBLISHED:
        made = _written_as(_filtered_as(made, main, untouched), given, untouched).fed_as(main)
    expected = [part for _, part in main.named_filters() if isinstance(part, Expected)]
    return filtered_by(made, expected[0]) if expected and name not in PUBLISHED else made


def _filtered_as(recipe: Recipe, main: Recipe, untouched: Recipe) -> Recipe:
    """With the filters that it shares with the main recipe changed, or left out, as they are there."""
    before, after = dict(untouched.named_filters()), dict(main.named_filters())
    kept: dict[str, Any] = dict.fromkeys(FILTERS, ())
    for name, part in recipe.named_filters():
        slot = name.partition(".")[0]
        if type(part) is not type(before.get(name)):
            kept[slot] += (part,)
        elif name in after:
            kept[slot] += (replace(part, **changed_fields(before[name], after[name])),)  # type: ignore[type-var]
    return replace(recipe, **kept)


def _written_as(recipe: Recipe, given: Mapping[str, Any], untouched: Recipe) -> Recipe:
    """With the changes of `--prompt_sampling`."""
    both = PROMPTS in given and writes_prompts(recipe) and writes_prompts(untouched)
    if not both or "proposer" in OWN.get(recipe.name, ()):
        return recipe
    part: Any = recipe.proposer
    changes = changed_fields(getattr(untouched.proposer, "sampling"), given[PROMPTS])  # noqa: B009  # a proposer need not have one
    return replace(recipe, proposer=replace(part, sampling=replace(part.sampling, **changes)))


def _same_loss(main: Any, own: Any) -> bool:
    if isinstance(main, SFT) and isinstance(own, SFT):
        return type(main.loss) is type(own.loss)
    flags = declared(own, Flags)
    return not (flags.preferences or flags.distils) or declared(main, Flags).pretends


def _with_own_loss(main: Any, own: Any, untouched: Any) -> Any:
    """The baseline's own trainer, as rates and schedules suit a loss, with what was changed of the main recipe's."""
    if not isinstance(main, SFT) or not isinstance(own, SFT) or not isinstance(untouched, SFT):
        return own
    return replace(own, **{name: value for name, value in changed_fields(untouched, main).items() if name != "loss"})


def _variants(vary: Sequence[str]) -> list[tuple[str, str]]:
    """(option, value) of every `option=v1,v2`; commas inside brackets belong to the value."""
    found = []
    for text in vary:
        option, equals, values = text.partition("=")
        option = option.removeprefix("--")
        each = [value.strip() for value in re.split(r",(?![^\[{(]*[\]})])", values)]
        if not equals or not option or not all(each):
            raise UserError(f"--vary {text}: give it as option=value1,value2")
        if option.partition(".")[0] in FIXED:
            raise UserError(f"--vary {text}: all arms of a study share --{option}; it cannot be varied")
        found += [(option, value) for value in each]
    return found


def _parse_with(
    make: Callable[..., Recipe], parser: ArgumentParser, arguments: Sequence[str], option: str, value: str
) -> Namespace:
    """The options of the study with one of them changed, checked as if it had been typed."""
    if option != "seeds":
        return parse(parser, [*arguments, f"--{option}", by_itself(parser, option, value)], part_options(make))
    changed = parse(parser, arguments, part_options(make))
    changed["seeds"] = value
    return changed
