"""`selfalign run RECIPE SEEDS --model M --out DIR`: starts a run, or goes on where it stopped."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from inspect import getdoc, signature
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace

from selfalign.cli.engine import Planned, offer_auto, settle_engine
from selfalign.cli.load import examples_with_notes, load_recipe, named_recipe, recipe_files
from selfalign.cli.options import new_parser, out_of, parse
from selfalign.cli.recipe_help import print_help, print_usage
from selfalign.cli.recipe_options import add_options, build, choices, part_options, resolved
from selfalign.errors import UserError
from selfalign.recipe import Recipe
from selfalign.types import Example


class Asked(NamedTuple):
    """What a command on a recipe is asked to do."""

    parser: ArgumentParser
    options: Any
    recipe: Recipe
    seeds: tuple[Example, ...]
    held_out: tuple[Example, ...]
    notes: tuple[str, ...]
    """Of the seeds and held-out examples, a sentence each."""


def main(arguments: Sequence[str]) -> int:
    return 0 if (asked := read(arguments, "run")) is None else execute(asked)


def read(arguments: Sequence[str], command: str) -> Asked | None:
    """Recipe and examples as a run takes them; None where help was asked for, and is printed.

    Raises:
        UserError: wrong options and files.
    """
    from selfalign.tracking.trackers import check_trackers

    if print_usage(command, arguments):
        return None
    make = load_recipe(named_recipe(arguments, command))
    parser = make_parser(make, command)
    if print_help(parser, make, arguments):
        return None
    options, recipe = planned(make, parser, arguments)
    check_trackers(options.report_to)
    examples = examples_with_notes(options.seeds, options.held_out)
    if options.out is None and out_of(command):
        raise UserError("which folder shall the run live in? give --out DIR")
    if options.model is None:
        raise UserError("which model? give --model with a local folder, a hub name, or smollm2-135m for the bundled one")
    return Asked(parser, options, recipe, *examples)


def execute(asked: Asked) -> int:
    """Starts the run or goes on with it, then prints where it stands."""
    from selfalign.cli.status import print_run
    from selfalign.errors import TimeUp, handle_signals
    from selfalign.loop.align import align
    from selfalign.loop.progress import limited, on_screen
    from selfalign.tracking.figures import reporting
    from selfalign.tracking.trackers import check_trackers

    options, trackers = asked.options, check_trackers(asked.options.report_to)
    with (
        suppress(TimeUp),  # the status says so
        handle_signals(),
        nullcontext() if options.quiet else on_screen() as bars,
        reporting(options.out, trackers, limited(options.max_hours, bars)) as progress,
    ):
        yaml_text, files = resolved(asked.parser, options), recipe_files(options.recipe)
        given = {"options": yaml_text, "files": files, "progress": progress, "keep": options.keep_weights}
        align(asked.recipe, options.model, asked.seeds, options.out, held_out=asked.held_out, **given)
    print_run(options.out, options.json)
    return 0


def make_parser(make: Callable[..., Recipe], command: str) -> ArgumentParser:
    """The options of the command and those of the recipe; see `recipe_options`."""
    summary = (getdoc(make) or "").split("\n\n")[0]
    parser = new_parser(command, summary)
    # The parser's own would name 130 options before it says what the command does.
    parser.usage = f"selfalign {command} RECIPE SEEDS --model M{out_of(command)} [options]"
    parser.add_argument("recipe", type=str, help="name of a recipe, or ./file.py:function")
    text = "file of pairs (JSONL, JSON, CSV, YAML, Parquet, Excel …), folder or hub data set; bundled: safe_helpful, in_scope"
    parser.add_argument("seeds", type=str, help=text)
    parser.add_argument("--model", type=str, help="local folder, hub name, or smollm2-135m for the bundled model")
    text = "the run folder; the same command on it goes on where it stopped"
    # A command that writes no folder takes it, so that a run's options can be given as they are, and does not speak of it.
    parser.add_argument("--out", type=str, help=text if out_of(command) else SUPPRESS)
    text = "held-out pairs for the metrics: a file, safe_helpful or in_scope; bundled seeds bring their own"
    parser.add_argument("--held_out", type=str, help=text)
    parser.add_argument("--report_to", type=str, help="send metrics to tensorboard, trackio, mlflow, wandb (commas between)")
    text = "wait after the filters of each round until people have gone through its pairs"
    parser.add_argument("--review", action="store_true", help=text)
    parser.add_argument("--max_hours", type=float, help="end in good order after so many hours; the same command goes on")
    text = "whose weights stay: last, of the best and the newest round; best, without a newest one that was rolled back; all"
    parser.add_argument("--keep_weights", type=str, choices=["best", "last", "all"], default="last", help=text)
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--json", action="store_true", help="print the final status as JSON instead of tables")
    if command == "check":
        text = "have the model make a batch of each stage and a few training steps, thrown away, and say what a run takes"
        parser.add_argument("--probe", action="store_true", help=text)
    parser.add_argument("--config", action="config", help="YAML file of options; options on the command line win")
    add_options(parser, make, command)
    offer_auto(parser, choices(make).get("engine", ()))
    return parser


def planned(make: Callable[..., Recipe], parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, Recipe]:
    """Options and recipe of a single run, with an engine by name in place of `--engine auto`."""
    made: list[Recipe] = []

    def plan(plain: Sequence[str]) -> Planned:
        options = parse(parser, plain, part_options(make))
        made.append(build(make, parser, options))
        return Planned(made, [options.model], Path(options.out) if options.out else None)

    settled = settle_engine(arguments, choices(make).get("engine", ()), plan)
    options = parse(parser, settled, part_options(make))
    if made and "engine" not in signature(make).parameters:  # one of its own may stand in several places of the recipe
        recipe = replace(made[0], engine=parser.instantiate(options).engine)
    else:
        recipe = build(make, parser, options)
    return options, replace(recipe, review=recipe.review or options.review)
