"""`selfalign study RECIPE SEEDS --model M --out DIR --baselines …`: a recipe against baselines, with intervals and a verdict."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from selfalign import recipes
from selfalign.cli.beside import BESIDE, add_beside, check_beside, make_beside
from selfalign.cli.engine import Planned, settle_engine
from selfalign.cli.load import load_recipe, named_recipe, read_examples, recipe_files
from selfalign.cli.options import by_itself, parse
from selfalign.cli.recipe_help import HELP, print_help
from selfalign.cli.recipe_options import build, choices, common, default_recipe, part_options, reports, resolved
from selfalign.cli.run import make_parser
from selfalign.errors import UserError
from selfalign.filters import Expected
from selfalign.protocols import Flags, declared
from selfalign.recipe import Recipe
from selfalign.recipes.evaluations import filtered_by
from selfalign.record.plain import portable
from selfalign.trainers import SFT
from selfalign.types import Example

USAGE = """usage: selfalign study RECIPE SEEDS --model M --out DIR [--baselines pretrained,icl_knn,sft] [--repeats 3] [options]
       selfalign study --config DIR/study.yaml

RECIPE and the baselines are of {recipes}, or your own: ./mine.py:function
`selfalign study RECIPE --help` lists the common options of a study and of the recipe, `--help-all` all of them.
"""

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
    "recipe",
    "out",
    "held_out",
    "seed",
    "baselines",
    "repeats",
    "vary",
    "metric",
    "max_hours",
    "quiet",
    "keep_weights",
    "json",
    *BESIDE,
    "config",
    "help",
    "report_to",
    *("expect", "refusal", "truthfulness", "harmfulness", "win_rate", "lm_eval", "mt_bench", "code", "unsafe_run_code", "guard"),
    "evaluate",
)
"""Options of the study as a whole: all arms have to share them."""


def main(arguments: Sequence[str]) -> int:
    if any(a in HELP for a in arguments[:1]):
        sys.stdout.write(USAGE.format(recipes=", ".join(recipes.__all__)))
        return 0
    make = load_recipe(named_recipe(arguments, "study"))
    parser = study_parser(make)
    if print_help(parser, make, arguments):
        return 0
    arguments = settle_engine(arguments, choices(make).get("engine", ()), lambda plain: _plan(make, parser, plain))
    options = parse(parser, arguments, part_options(make))
    seeds, held_out = read_examples(options.seeds, options.held_out)
    for name, what in (("out", "a folder for the study"), ("model", "a local folder, a hub name, or smollm2-135m")):
        if options[name] is None:
            raise UserError(f"--{name} is missing: give {what}")
    check_beside(options)
    _check_folder(Path(options.out))
    arms = make_arms(make, parser, options, arguments, seeds)
    if options.only is not None:
        return _one(arms, held_out, options)
    return _study(arms, held_out, options, resolved(parser, options), arguments)


def _check_folder(out: Path) -> None:
    """
    Raises:
        UserError: it could not be made or written to. Nothing is made here: the study's other options may be wrong.
    """
    there = next(each for each in (out, *out.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "cannot be written to" if there.is_dir() else "is no folder"
        raise UserError(f"--out {out}: {there} {why}; give the study another one")


def _plan(make: Callable[..., Recipe], parser: ArgumentParser, arguments: Sequence[str]) -> Planned:
    """All arms share the engine that the first run of the study was begun with."""
    options = parse(parser, arguments, part_options(make))
    arms = make_arms(make, parser, options, arguments, read_examples(options.seeds, None)[0])
    first = Path(options.out) / arms[0].folder / f"seed-{arms[0].recipe.seed}" if options.out else None
    return Planned([arm.recipe for arm in arms], [arm.model for arm in arms], first)


def study_parser(make: Callable[..., Recipe]) -> ArgumentParser:
    """The options of `selfalign run` and those of a study."""
    parser = make_parser(make, "study")
    for name, kind, default, text in (
        (
            "baselines",
            str,
            "pretrained,icl_knn,sft",
            "recipes to compare it with, with commas between; own ones as ./file.py:function",
        ),
        ("repeats", int, 3, "random seeds for each arm, from --seed on"),
        ("metric", str, None, "what the verdict is about; without it expected, balance or log_likelihood, the first there is"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    add_beside(parser)
    text = "option=v1,v2 …: one more arm for each value; seeds=8,16,32 draws so many of the seeds"
    parser.add_argument("--vary", type=str, nargs="+", default=[], help=text)
    return parser


def make_arms(
    make: Callable[..., Recipe], parser: ArgumentParser, options: Namespace, arguments: Sequence[str], seeds: tuple[Example, ...]
) -> list[Any]:
    """The recipe, its baselines, its variants.

    Raises:
        UserError: a baseline or an option that does not exist (with the nearest one), a value of the wrong type.
    """
    from selfalign.study.run import Arm

    main = build(make, parser, options)
    with reports():
        given = {name: value for name, value in parser.instantiate(options).items() if name in inspect.signature(make).parameters}
    arms = [Arm(main.name, main, options.model, seeds)]
    for name in filter(None, (each.strip() for each in options.baselines.split(","))):
        recipe = _baseline(load_recipe(name), given, main, default_recipe(make))
        seeds_alone = not recipe.per_round or declared(recipe.proposer, Flags).preferences  # what it generates it only rejects
        planned = name in PUBLISHED or declared(recipe.trainer, Flags).warms_up  # steps of its own, round by round
        matched = bool(recipe.rounds) and seeds_alone and not planned
        arms.append(Arm(recipe.name, recipe, options.model, seeds, matched=main.name if matched else ""))
    variants = _variants(options.vary)
    sizes = [value for option, value in variants if option == "seeds" and _NUMBER.fullmatch(value)]
    for option, value in variants:
        if option == "seeds" and sizes:
            continue
        changed = _parse_with(make, parser, arguments, option, value)
        others = read_examples(changed.seeds, options.held_out)[0] if option == "seeds" else seeds
        shown = portable(value).removeprefix("…/")  # the name stands in every table and page of the study
        arms.append(Arm(f"{main.name}-{option}={shown}", build(make, parser, changed), changed.model, others))
    if sizes:
        arms += _learning_curve(arms, _sizes([value for option, value in variants if option == "seeds"], len(seeds)))
    return arms


def _learning_curve(arms: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """For each size the recipe on so many of its seeds and, where `sft` is among the baselines, sft on the same ones, trained
    for as many steps as that."""
    from selfalign.study.subsets import nested

    main, *others = arms
    made = []
    for size in sizes:
        seeds = nested(main.seeds, size, main.recipe.seed)
        point = replace(main, name=f"{main.name}-seeds={size}", seeds=seeds, point_of=main.name)
        made.append(point)
        made += [
            replace(arm, name=f"sft-seeds={size}", seeds=seeds, matched=point.name, point_of=arm.name)
            for arm in others
            if arm.name == "sft"
        ]
    return made


def _sizes(values: Sequence[str], whole: int) -> list[int]:
    """The numbers of seeds to draw, ascending; that of all seeds is the main arm's already.

    Raises:
        UserError: one that is below 2 or beyond the file, names of files among them, or nothing to draw.
    """
    shown = f"--vary seeds={','.join(values)}"
    if files := [value for value in values if not _NUMBER.fullmatch(value)]:
        raise UserError(f"{shown}: numbers and names of files ({files[0]}) in one study; give one of the two")
    numbers = sorted({int(value) for value in values})
    if wrong := [number for number in numbers if not 2 <= number <= whole]:
        raise UserError(f"{shown}: {wrong[0]} of the {whole} seeds cannot be drawn; give numbers from 2 to {whole}")
    if numbers == [whole]:
        raise UserError(f"{shown}: these are all the seeds; give smaller numbers too")
    return [number for number in numbers if number < whole]


def _baseline(make: Callable[..., Recipe], given: Mapping[str, Any], main: Recipe, untouched: Recipe) -> Recipe:
    """A baseline with what it takes over from the main recipe: the function's options that both have, and the fields of every
    recipe, those of its method only where they were changed; nothing that makes the baseline what it is. To its method belong
    the trainer and the number of rounds where the two minimise different losses.

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
        known = type(recipe.trainer)
        kept = {"engine", "encoder", "seed", *(("trainer",) if type(main.trainer) is not known else ())}
        taken = {key: value for key, value in taken.items() if key in kept}
    if name == "one_shot":
        taken["per_round"] = max(1, main.rounds) * main.per_round
    if not main.per_round:
        taken.pop("per_round", None)
    if other_loss and not recipe.per_round:
        taken.pop("rounds", None)  # it takes steps in rounds of its own (`match_steps`)
    if "trainer" in taken:
        taken["trainer"] = _with_own_loss(main.trainer, recipe.trainer, untouched.trainer) if other_loss else main.trainer
    shared = ("evaluators", "eval_sampling", "evaluate", "allow_overlap", "allow_other_versions")
    yardstick = {key: getattr(main, key) for key in shared}
    made = replace(recipe, **{**taken, **yardstick, "steps": ()})
    made = made if name in PUBLISHED else made.fed_as(main)
    expected = [part for _, part in main.named_filters() if isinstance(part, Expected)]
    return filtered_by(made, expected[0]) if expected and name not in PUBLISHED else made


def _same_loss(main: Any, own: Any) -> bool:
    if isinstance(main, SFT) and isinstance(own, SFT):
        return type(main.loss) is type(own.loss)
    special = declared(own, Flags).preferences or declared(own, Flags).distils
    return not special or declared(main, Flags).pretends


def _with_own_loss(main: Any, own: Any, untouched: Any) -> Any:
    """The baseline's own trainer, as rates and schedules suit a loss, with what was changed of the main recipe's."""
    if not isinstance(main, SFT) or not isinstance(own, SFT) or not isinstance(untouched, SFT):
        return own
    names = [field.name for field in fields(SFT) if field.name != "loss"]
    return replace(own, **{name: value for name in names if (value := getattr(main, name)) != getattr(untouched, name)})


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


def _one(arms: Sequence[Any], held_out: Sequence[Example], options: Namespace) -> int:
    """One run of a study, for the process that has the others run too; its progress in lines."""
    from selfalign.errors import handle_signals
    from selfalign.loop.progress import Lines, limited
    from selfalign.study.processes import end_with_parent
    from selfalign.study.run import run_one
    from selfalign.tracking.trackers import check_trackers

    trackers = check_trackers(options.report_to)
    with handle_signals(), nullcontext() if options.quiet else Lines() as lines:
        end_with_parent()
        run_one(
            arms,
            held_out,
            Path(options.out),
            options.only,
            repeats=options.repeats,
            first_seed=arms[0].recipe.seed,
            progress=limited(options.max_hours, lines),
            trackers=trackers,
            files=recipe_files(options.recipe),
            keep=options.keep_weights,
            trainer=json.loads(options.settled or "{}"),
        )
    return 0


def _study(arms: Sequence[Any], held_out: Sequence[Example], options: Namespace, yaml_text: str, arguments: Sequence[str]) -> int:
    from selfalign.cli.study_table import print_study
    from selfalign.errors import handle_signals
    from selfalign.loop.progress import limited, on_screen
    from selfalign.study.run import run_study
    from selfalign.tracking.trackers import check_trackers

    trackers = check_trackers(options.report_to)
    first_seed = arms[0].recipe.seed
    with handle_signals(), ExitStack() as stack:
        beside = make_beside(options, arms, arguments)
        bars = None if options.quiet else stack.enter_context(on_screen() if beside is None else nullcontext())
        progress = limited(options.max_hours, bars)
        result = run_study(
            arms,
            held_out,
            options.out,
            repeats=options.repeats,
            first_seed=first_seed,
            metric=options.metric,
            progress=progress,
            trackers=trackers,
            files=recipe_files(options.recipe),
            options=yaml_text,
            keep=options.keep_weights,
            beside=None if beside is None else stack.enter_context(beside),
        )
    if options.json:
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    else:
        print_study(result)
    return 0
